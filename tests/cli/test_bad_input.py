"""Bad input gives one clear line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from placer import files

NODE = {"name": "a", "type": "A"}
DEVICE = '[[devices]]\nname = "{}"\nkind = "gpu"\n'
CLUSTER = 'format = "placer.cluster/1"\nname = "bad"\n'


def ops(*rows: dict[str, object]) -> str:
    """A graph file."""
    return json.dumps({"format": "placer.graph/1", "name": "bad", "ops": rows})


def after(name: str, producer: str) -> dict[str, object]:
    """An op that waits for another."""
    return {"name": name, "type": "A", "inputs": [producer]}


BAD_GRAPHS = {
    "missing": (None, "no such file"),
    "malformed": (
        '{"format": "placer.graph/1", "ops": [',
        "not valid JSON (Input data was truncated)",
    ),
    "version": (
        '{"format": "placer.graph/9", "name": "bad", "ops": []}',
        "format 'placer.graph/9'; expected 'placer.graph/1'",
    ),
    "cycle": (
        ops(after("a", "^c"), after("b", "^a"), after("c", "^b")),
        "the graph has a cycle: a -> b -> c -> a",
    ),
    "dangling": (ops(after("a", "b:0")), "op 'a': input 'b:0' names no op of the graph"),
    "negative": (
        ops({**NODE, "outputs": [{"bytes": -4}]}),
        "op 'a': outputs[0].bytes is -4.0; expected a finite number >= 0",
    ),
    "empty": (ops(), "graph 'bad' has no ops; expected at least one"),
}

BAD_CLUSTERS = {
    "malformed": ("format = ", "not valid TOML (Invalid value (at end of document))"),
    "no_devices": (CLUSTER, "cluster 'bad' has no devices; expected at least one"),
    "no_link": (
        CLUSTER + DEVICE.format("gpu:0") + DEVICE.format("gpu:1"),
        "no link from 'gpu:0' to 'gpu:1'; every ordered pair of devices needs one",
    ),
}


def check(placer, folder: Path, arguments: list[str], line: str) -> None:
    """Calls the command and checks exit code, line and what is on disk."""
    before = sorted(folder.rglob("*"))
    result = placer(*arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"error: {line}\n", "")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("command", ["train", "simulate", "compare", "inspect"])
@pytest.mark.parametrize("what", BAD_GRAPHS)
def test_bad_graphs(placer, folder: Path, command: str, what: str) -> None:
    """Every command that takes a graph says what is wrong with it and where."""
    content, problem = BAD_GRAPHS[what]
    if content is not None:
        Path(f"{what}.json").write_text(content)
    arguments = [command, "--graph", f"{what}.json", "--cluster", "c.toml"]
    check(placer, folder, arguments, f"{what}.json: {problem}")


@pytest.mark.parametrize("command", ["train", "simulate", "compare", "inspect"])
@pytest.mark.parametrize("what", BAD_CLUSTERS)
def test_bad_clusters(placer, folder: Path, command: str, what: str) -> None:
    """Every command that takes a cluster says what is wrong with it and where."""
    content, problem = BAD_CLUSTERS[what]
    Path(f"{what}.toml").write_text(content)
    arguments = [command, "--graph", "g.json", "--cluster", f"{what}.toml"]
    check(placer, folder, arguments, f"{what}.toml: {problem}")


ON_TINY = ["--graph", "g.json", "--cluster", "c.toml"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["train", "--workload", "inception_v4", "--cluster", "c.toml"],
            "unknown workload 'inception_v4'; did you mean 'inception_v3'?",
        ),
        (
            ["compare", "rnnml", "--cluster", "c.toml"],
            "unknown workload 'rnnml'; did you mean 'rnnlm'?",
        ),
        (
            ["train", "--graph", "g.json", "--cluster", "p100x5"],
            "unknown cluster 'p100x5'; did you mean 'p100x4'?",
        ),
        (
            ["train", *ON_TINY, "--strategy", "reinforced"],
            "unknown strategy 'reinforced'; did you mean 'reinforce'?",
        ),
        (
            ["compare", *ON_TINY, "--methods", "heft,meits"],
            "unknown method 'meits'; did you mean 'metis'?",
        ),
        (
            ["compare", *ON_TINY, "--methods", ","],
            "methods is ','; expected names with commas between, or 'all'",
        ),
        (
            ["compare", *ON_TINY, "--order", "prioritty"],
            "unknown order 'prioritty'; did you mean 'priority'?",
        ),
        (
            ["compare", "--graph", "g.json", "--cluster", "c.toml,p100x5"],
            "unknown cluster 'p100x5'; did you mean 'p100x4'?",
        ),
        (
            ["simulate", *ON_TINY, "--placement-devices", "gpu:7"],
            "unknown device 'gpu:7'; did you mean 'gpu:1'?",
        ),
        (["inspect", "--graph", "g.json", "--op", "a9"], "unknown op 'a9'; did you mean 'a2'?"),
        (
            ["fidelity", "--workload", "rnnml", "--out", "f"],
            "unknown workload 'rnnml'; did you mean 'rnnlm'?",
        ),
    ],
)
def test_unknown_names_suggest_the_near_one(placer, folder: Path, arguments, line: str) -> None:
    """A name that we do not know gets a suggestion."""
    check(placer, folder, arguments, line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["simulate", *ON_TINY], "give either --placement or --placement-devices"),
        (["train", *ON_TINY, "--workload", "rnnlm"], "give either --graph or --workload"),
        (["train", "--cluster", "c.toml"], "give either --graph or --workload"),
        (["train", "--graph", "g.json"], "give --cluster: a file, or the name of a preset"),
        (
            ["train", *ON_TINY, "--evaluations", "100000001"],
            "evaluations is 100000001; expected a whole number from 1 to 100,000,000",
        ),
        (
            ["place", *ON_TINY, "--evaluations", "100000001"],
            "evaluations is 100000001; expected a whole number from 1 to 100,000,000",
        ),
        (["train", "--resume"], "--resume needs the folder of the run: give --out"),
        (
            ["compare", "--cluster", "c.toml"],
            "nothing to compare on: give names of workloads, or --graph",
        ),
        (["compare", *ON_TINY, "--out", "g.json"], "g.json: is a file; expected a folder"),
        (
            ["compare", *ON_TINY, "--out", "."],
            ".: not empty, and has no runs.jsonl to go on with",
        ),
        (
            ["compare", *ON_TINY, "--evaluations", "10,0"],
            "evaluations is '10,0'; expected whole numbers from 1 to 100,000,000 with commas "
            "between",
        ),
        (
            ["profile", "--workload", "rnnlm", "--workers", "0", "--out", "p.json"],
            "--workers 0; expected at least 1, or HOST:PORT,...",
        ),
        (
            ["fidelity", "--workload", "rnnlm", "--shares", "1,0.5", "--out", "f"],
            "--shares are of processes: give --workers N",
        ),
        (
            [
                "fidelity",
                "--workload",
                "rnnlm",
                "--graph",
                "none.json",
                "--cluster",
                "c.toml",
                "--out",
                "f",
            ],
            "none.json: no such file",
        ),
        (["inspect"], "nothing to inspect: give --graph, --workload or --cluster"),
        (["inspect", "--op", "a"], "--op needs the graph that has it: give --graph or --workload"),
        (["plot", "nowhere"], "nowhere: no run (it has no config.toml)"),
        (
            ["plot", "nowhere", "--out", "a.gif"],
            "a.gif: ends in '.gif'; expected one of .png, .svg, .pdf",
        ),
    ],
)
def test_arguments_that_do_not_go_together(placer, folder: Path, arguments, line: str) -> None:
    """What is missing or too much is said."""
    check(placer, folder, arguments, line)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", *ON_TINY, "--evaluations", "0"],
        ["train", *ON_TINY, "--evaluations", "many"],
        ["train", *ON_TINY, "--seed", "-1"],
        ["train", *ON_TINY, "--order", "lifo"],
        ["train", *ON_TINY, "--groups", "0"],
        ["compare", *ON_TINY, "--seeds", "0"],
        ["compare", *ON_TINY, "--jobs", "0"],
        ["plot"],
        ["trian"],
    ],
)
def test_values_out_of_range(placer, folder: Path, arguments) -> None:
    """Options outside their range are refused before anything happens."""
    before = sorted(folder.rglob("*"))
    result = placer(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(folder.rglob("*")) == before


def test_placement_of_another_graph(placer, folder: Path) -> None:
    """A placement for another graph says what differs."""
    Path("p.json").write_text('{"format": "placer.placement/1", "devices": {"a": "gpu:0"}}')
    check(
        placer,
        folder,
        ["simulate", *ON_TINY, "--placement", "p.json"],
        "p.json: made for another graph than 'chains': it lacks 'x', 'a0', 'a1' and 11 more; "
        "the graph lacks 'a'",
    )


@pytest.mark.parametrize(
    ("out", "line"),
    [
        ("full", "full: not empty; give another --out, or --resume to go on with its run"),
        ("file", "file: a file; expected a folder for the run"),
        ("file/run", "file/run/manifest.json: cannot be written (Not a directory)"),
    ],
)
def test_folders_that_cannot_take_a_run(placer, folder: Path, out: str, line: str) -> None:
    """A folder with something in it, and one that cannot be made, are refused."""
    Path("full").mkdir()
    Path("full/file").touch()
    Path("file").touch()
    check(placer, folder, ["train", *ON_TINY, "--out", out], line)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_one_process_writes_to_a_folder(placer, folder: Path, command: str) -> None:
    """Another one is told so, and may write there afterwards."""
    arguments = [command, *ON_TINY, "--out", "out"]
    arguments += ["--methods", "expert"] if command == "compare" else ["--evaluations", "40"]
    with files.sole_writer(Path("out")):
        if command == "train":
            arguments += ["--strategy", "random"]
        result = placer(*arguments)
        assert result.exit_code == 2
        assert "out: another process is writing there" in result.output
    assert placer(*arguments, *(["--resume"] if command == "train" else [])).exit_code == 0


def test_only_runs_are_resumed(placer, folder: Path) -> None:
    """A folder with something else in it is not taken for a run."""
    Path("full").mkdir()
    Path("full/file").touch()
    arguments = ["train", "--resume", "--out", "full"]
    check(placer, folder, arguments, "full: no run (it has no config.toml)")


def test_unwritable_outputs(placer, folder: Path) -> None:
    """An output that cannot be written is an error, and no half of it stays."""
    Path("file").touch()
    for option in ("--schedule", "--trace"):
        arguments = ["simulate", *ON_TINY, "--placement-devices", "gpu:0", option, "file/s.json"]
        check(placer, folder, arguments, "file/s.json: cannot be written (File exists)")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["pretrain", "--out", "file/p.npz"], "file/p.npz: cannot be written (Not a directory)"),
        (["calibrate", "--out", "file/c.toml"], "file/c.toml: cannot be written (Not a directory)"),
        (
            ["profile", "--workload", "rnnlm", "--out", "folder.json"],
            "folder.json: cannot be written (Is a directory)",
        ),
    ],
)
def test_what_takes_long_checks_its_output_first(
    placer, folder: Path, arguments: list[str], reason: str
) -> None:
    """Nothing is measured or learned that could not be kept."""
    Path("file").touch()
    Path("folder.json").mkdir()
    check(placer, folder, arguments, reason)


def test_import_writes_both_or_nothing(placer, folder: Path) -> None:
    """Where the cluster cannot be written, the graph is not."""
    Path("file").touch()
    Path("g.txt").write_text("0,1,1,1\n")
    outs = ["--out-graph", "g.json", "--out-cluster", "file/c.toml"]
    arguments = ["import", "g.txt", "--format", "doppler", *outs]
    check(placer, folder, arguments, "file/c.toml: cannot be written (Not a directory)")


@pytest.mark.parametrize("schedule", ["s.json", "out/../s.json"])
def test_two_outputs_in_one_file(placer, folder: Path, schedule: str) -> None:
    """One would overwrite the other."""
    options = ["--schedule", schedule, "--trace", "s.json"]
    arguments = ["simulate", *ON_TINY, "--placement-devices", "gpu:0", *options]
    check(placer, folder, arguments, "--schedule and --trace would both write s.json")


def test_fidelity_of_another_program(placer, folder: Path) -> None:
    """The folder is not begun, so that it can take the right graph."""
    sizes = ["batch_size=2", "num_steps=2", "num_units=8", "vocabulary=50"]
    arguments = ["fidelity", "--workload", "rnnlm", *(w for s in sizes for w in ("--size", s))]
    arguments += ["--graph", "g.json", "--cluster", "c.toml", "--workers", "2", "--out", "f"]
    result = placer(*arguments)
    assert result.exit_code == 2
    assert "graph 'chains' has other ops than the program 'rnnlm'" in result.stderr
    assert not Path("f").exists()


def test_one_fidelity_writes_to_a_folder(placer, folder: Path) -> None:
    """Two would measure each other, and each take what the other wrote for its own."""
    with files.sole_writer(Path("f")):
        result = placer("fidelity", "--workload", "rnnlm", "--workers", "2", "--out", "f")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: f: another process is writing there\n"


@pytest.mark.parametrize(("name", "suffix"), [("t.txt", ".txt"), ("t", ""), ("t.gz", ".gz")])
def test_traces_of_unknown_formats(placer, folder: Path, name: str, suffix: str) -> None:
    """A trace is written under names that Perfetto opens, and no other file is written then."""
    options = ["--schedule", "s.json", "--trace", name]
    arguments = ["simulate", *ON_TINY, "--placement-devices", "gpu:0", *options]
    check(placer, folder, arguments, f"{name}: ends in {suffix!r}; expected one of .json, .json.gz")
