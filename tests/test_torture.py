"""What a torture of an hour tries at random, for a minute and at chosen moments (docs/reliability.md)."""

import os
import re
import signal

import pytest
from torture.__main__ import main
from torture.commands import begun, commands, end_of, new_folder, small_inputs, wait_until
from torture.disturbances import small_disk

COMMANDS = {command.name: command for command in commands()}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    small_inputs(new_folder(folder / "inputs"))
    return folder


@pytest.fixture
def folder(work):
    return new_folder(work / "run")


@pytest.mark.slow
def test_a_minute_of_torture(capsys):
    status = main(["--minutes", "1", "--seed", "0"])
    table = capsys.readouterr().out
    assert status == 0, table
    assert len(re.findall(r"^\| \w+ +\| .* \| \d+ \| 0 \|$", table, re.M)) == 15


@pytest.mark.parametrize("name", ["synthesize", "export", "predict", "label", "train_ebc"])
def test_an_interrupt_is_one_line_that_says_how_to_go_on(name, folder):
    run = COMMANDS[name].start(folder)
    assert wait_until(lambda: begun(run), 60)
    os.killpg(run.pid, signal.SIGINT)
    end = end_of(run)
    assert (end.status, end.wrong) == (130, "")
    assert re.search("interrupted. .* (same command|--resume_from_checkpoint latest)", end.error)


@pytest.mark.parametrize("name", ["synthesize", "export", "label", "train_soft_fer", "train_ebc", "evaluate_model"])
def test_a_second_run_is_told_of_the_first_and_a_lock_of_a_killed_one_is_none(name, folder):
    command = COMMANDS[name]
    first = command.start(folder)
    assert wait_until(lambda: any(path.name.endswith("lock") for path in (folder / "out").rglob("*")), 60)
    os.kill(first.pid, signal.SIGSTOP)
    second = end_of(command.start(folder))
    os.kill(first.pid, signal.SIGCONT)
    assert second.status == 2 and re.search(r"Another run is writing .*out.*: wait for its end", second.error)
    first.kill()
    again = end_of(command.start(folder, go_on=True))
    assert (again.status, again.wrong) == (0, "")


def test_different_experts_are_trained_into_one_folder_at_once(folder):
    command = COMMANDS["train_ebc"]
    args = [word for word in command.args if word not in ("happy", "sad")]
    place = args.index("--expressions") + 1
    runs = []
    for expression in ("happy", "sad"):
        command.args = [*args[:place], expression, *args[place:]]
        runs.append(command.start(folder))
    assert [(end.status, end.wrong) for end in map(end_of, runs)] == [(0, "")] * 2


@pytest.mark.parametrize("name", ["synthesize", "export", "predict", "label", "train_soft_fer"])
def test_what_does_not_fit_is_said_and_nothing_is_left_of_it(name, folder):
    command = COMMANDS[name]
    with small_disk(folder / "out", 8) as grow:
        if not grow:
            pytest.skip("no disk can be mounted here")
        end = end_of(command.start(folder))
        assert (end.status, end.wrong) == (2, "")
        assert "could not be written whole: there is no room on its disk, of which 0.0 MB are free." in end.error
        assert not [path for path in (folder / "out").rglob("*") if "writing" in path.name or path.name == "new"]
        grow()
        again = end_of(command.start(folder, go_on=True))
        assert (again.status, again.wrong) == (0, "") and (not command.results or command.found(folder))
