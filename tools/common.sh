# Functions of the measuring scripts, which source this file.

# Prints the comment at the top of the script.
print_help() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }

# Expects a folder as the first argument; otherwise prints the help and exits.
expect_folder() {
  if [[ $# -lt 1 || $1 == -* ]]; then
    print_help
    [[ ${1:-} == --help || ${1:-} == -h ]] && exit 0
    exit 2
  fi
}

# Tolerates status 3, with which a tool ends if some rows could not run; these rows show the reason.
tolerate() {
  local status=0
  "$@" || status=$?
  [[ $status == 0 || $status == 3 ]] || exit "$status"
}
