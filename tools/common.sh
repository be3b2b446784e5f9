# What the scripts that measure share; they read it and are not run by it.

# Prints the comment at the top of the script that runs.
print_help() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }

# The first argument of a script is a folder; for anything else the help, and the end.
expect_folder() {
  if [[ $# -lt 1 || $1 == -* ]]; then
    print_help
    [[ ${1:-} == --help || ${1:-} == -h ]] && exit 0
    exit 2
  fi
}

# 3 is the status of a table with combinations that cannot be run; each says why in its row.
tolerate() {
  local status=0
  "$@" || status=$?
  [[ $status == 0 || $status == 3 ]] || exit "$status"
}
