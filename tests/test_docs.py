"""The documents build, their links have targets, and their commands and options exist."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.factories import TOOLS, load_tool, read_lines, run_tool, write_photos

ROOT = TOOLS.parent
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
DOCUMENTS = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
    *sorted((ROOT / 'configs').rglob('*.md')),
    *PAGES,
]
OPTION = re.compile(r'--[a-z][\w-]*')
FENCE = re.compile(r'^```.*?^```$', re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r'^<!-- ([\w-]+) -->\n.*?^<!-- end of \1 -->$', re.DOTALL | re.MULTILINE)
# Options of programs that are not in tools/.
FOREIGN = {'--no-cache-dir', '--force-reinstall'}
# Words of the project's private vocabulary, which documents must not use.
AVOIDED = (
    *('anew', 'as a rule', 'beside', 'came to', 'drawn scenes', 'go on', 'goes on'),
    *('nobody', 'passed over', 'refuse', 'refused', 'refuses', 'seam', 'settle', 'settled'),
    *('side by side', 'slips in', 'somebody', 'stock', 'taken up', 'tells', 'whoever'),
)

by_name = pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(path: Path) -> str:
    """The text of a document without code blocks and generated tables."""
    return FENCE.sub('', GENERATED.sub('', path.read_text(encoding='utf-8')))


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings."""
    text = FENCE.sub('', path.read_text(encoding='utf-8'))
    titles = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'\s', '-', re.sub(r'[^\w\s-]', '', t.lower().strip())) for t in titles}


def commands(path: Path) -> Iterator[list[str]]:
    """Commands in a document's code blocks that run a tool, starting at its name."""
    for block in FENCE.findall(path.read_text(encoding='utf-8')):
        for line in block.replace('\\\n', ' ').splitlines():
            if (start := line.find('tools/')) >= 0 and '.py' in line:
                yield shlex.split(line[start:].split(' | ')[0], comments=True)


def test_the_site_builds_strictly_and_needs_no_other_host(tmp_path):
    """The site is built in a copy, since a build leaves a cache."""
    shutil.copy(ROOT / 'mkdocs.yml', tmp_path)
    for folder in ('docs', 'mmpose_batch'):
        ignored = shutil.ignore_patterns('__pycache__', '*.pth')
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    command = [sys.executable, '-m', 'zensical', 'build', '--strict', '-f', 'mkdocs.yml']
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    api = (tmp_path / 'site' / 'reference' / 'api' / 'index.html').read_text(encoding='utf-8')
    for name in ('BatchPose2DInferencer', 'build_inferencer', 'ImageResult', 'CheckpointError'):
        assert re.search(rf'<h\d id="mmpose_batch\.[\w.]*{name}"', api), name
    loaded = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(?:https?:)?//')
    for page in (tmp_path / 'site').rglob('index.html'):
        text = page.read_text(encoding='utf-8')
        assert not loaded.search(text), page
        for picture in re.findall(r'<img[^>]*src="([^":]+)"', text):
            assert (page.parent / picture).is_file(), picture


def test_every_page_is_in_the_navigation():
    def leaves(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry.values() if isinstance(entry, dict) else entry:
                yield from leaves(part)

    nav = list(leaves(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav']))
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@by_name
def test_every_link_has_a_target(path):
    for link in re.findall(r'\]\(([^)\s]+)\)', FENCE.sub('', path.read_text(encoding='utf-8'))):
        if re.match(r'https?://', link):
            continue
        file, _, anchor = link.partition('#')
        target = (path.parent / file) if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@by_name
def test_every_command_is_one_that_its_tool_takes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some create the folder of --out-dir
    for tool, *words in commands(path):
        load_tool(Path(tool).stem).parse_args(words)


@pytest.fixture(scope='module')
def options() -> set[str]:
    """The options of all tools."""
    names = [path.stem for path in TOOLS.glob('*.py') if path.stem != 'console']
    return {o for name in names for o in OPTION.findall(run_tool('--help', tool=name).out)}


@by_name
def test_every_option_in_the_text_exists(path, options):
    code = re.findall(r'`((?:--|tools/|batch_infer)[^`]+)`', prose(path))
    named = {option for text in code for option in OPTION.findall(text)}
    assert named <= options | FOREIGN


@by_name
def test_the_words_are_those_of_the_field(path):
    text = re.sub(r'`[^`]*`|\]\([^)]*\)', '', prose(path))
    found = [word for word in AVOIDED if re.search(rf'\b{word}\b', text, re.IGNORECASE)]
    assert not found


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 150


def test_the_reference_of_options_is_current():
    tool = load_tool('write_options')
    expected = tool.render(load_tool('batch_infer').build_parser())
    assert tool.PAGE.read_text(encoding='utf-8') == expected, 'run tools/write_options.py'


def test_the_reference_of_files_names_every_field(models, tmp_path):
    write_photos(tmp_path / 'photos', 1)
    (tmp_path / 'photos' / 'bad.jpg').write_bytes(b'no image')
    out = tmp_path / 'out'
    formats = ('--format', 'json', 'parquet', 'coco', '--save-vis')
    run_tool(tmp_path / 'photos', '--out-dir', out, *formats, *models.one_stage)
    info = json.loads((out / 'run.json').read_text())
    good, bad = read_lines(out / 'predictions.jsonl')
    coco = json.loads((out / 'predictions.coco.json').read_text())
    fields = {*info, *info['counts'], *good, *bad, *good['instances'][0], *coco[0]}
    text = (DOCS / 'reference' / 'files.md').read_text(encoding='utf-8')
    assert not [field for field in sorted(fields) if f'`{field}`' not in text]
    written = {path.name for path in out.iterdir() if not path.name.startswith('.')}
    assert not [name for name in written if f'## {name}' not in text]
