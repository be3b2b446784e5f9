"""Command line arguments are made from the declarations of options."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import pytest

from mmpose_batch.cli import latency, start, throughput
from mmpose_batch.cli.infer import build_parser, parse_args
from mmpose_batch.cli.options import add_option
from mmpose_batch.config import BatchOptions, CallOptions, DrawOptions
from mmpose_batch.declare import declared, option
from mmpose_batch.engines import registry
from mmpose_batch.engines.base import EngineSpec


@dataclass
class Options:
    number: int = option(3, 'a number', minimum=2, metavar='N')
    size: int | str | None = option(None, 'a size', minimum=1, auto=True)
    share: float = option(0.5, 'a share')
    words: Sequence[str] = option(('a',), 'some words')
    flag: bool = option(False, 'a flag')
    switch: bool = option(True, 'a switch')
    kind: str = option('one', 'a kind', choices=('one', 'two'))


def parse(*words: str, strict: bool = True) -> dict:
    parser = argparse.ArgumentParser()
    for name in declared(Options):
        add_option(parser, Options, name, strict)
    return vars(parser.parse_args(words))


def test_defaults_are_those_of_the_class():
    assert parse() == {**vars(Options()), 'words': ['a']}


def test_values_have_the_declared_types():
    words = '--number 4 --size auto --share 1 --words b c --flag --no-switch --kind two'
    found = parse(*words.split())
    assert list(found.values()) == [4, 'auto', 1.0, ['b', 'c'], True, False, 'two']


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--number', '1'], 'argument --number: expected an integer >= 2, found 1'),
        (['--size', 'big'], 'argument --size: expected an integer >= 1, found big'),
        (['--kind', 'three'], "argument --kind: invalid choice: 'three'"),
    ],
)
def test_other_values_are_rejected(words, message, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert message in capsys.readouterr().err


def test_a_range_can_be_checked_by_the_class():
    assert parse('--number', '1', '--size', '0', strict=False)['number'] == 1


def test_options_that_a_config_may_set_have_no_default_on_the_command_line():
    args = vars(parse_args(['in', '--out-dir', 'out']))
    for owner in (BatchOptions, CallOptions):
        assert {name: args[name] for name in declared(owner)} == dict.fromkeys(declared(owner))
    drawing = DrawOptions()
    for name in declared(DrawOptions):
        assert args[name] == getattr(drawing, name)


def test_every_argument_has_help():
    assert [action.dest for action in build_parser()._actions if not action.help] == []


@pytest.mark.parametrize('command', [latency, start, throughput])
def test_benchmarks_take_every_registered_engine(command: ModuleType, monkeypatch):
    monkeypatch.setattr(registry, 'ENGINES', dict(registry.specs()))
    args = command.parse_args(['photos/', '--engine', 'mine', '--device', 'cpu'])
    with pytest.raises(ValueError, match=r"engine: expected one of torch, .*auto, found 'mine'"):
        command.build_contenders(args)
    registry.register(EngineSpec(name='mine', build=lambda *_: None))
    contenders = command.build_contenders(args)
    assert contenders[-1].settings['engine'] == 'mine'
