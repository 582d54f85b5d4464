"""The README's commands are executed, and its tables name what there is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lfdeploy.cli import main
from lfdeploy.models import ARCHITECTURES
from lfdeploy.run import Run
from training.methods import METHODS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(text: str) -> list[str]:
    """The shell's."""
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


BLOCKS, CALIBRATED = blocks(TEXT), blocks((ROOT / "docs" / "formats.md").read_text())


def lines(block: str) -> list[str]:
    return [line.split("#")[0].strip() for line in block.splitlines() if line.strip()]


def test_every_command_and_row_is_named() -> None:
    for name in main.commands:
        assert re.search(rf"`{name}\b", TEXT), name
    for name in METHODS:
        assert f"`{name}`" in TEXT, name
    for arch in re.findall(r"`([a-z0-9_]+)`", TEXT.split("| `--arch` |")[1].split("All: ")[0]):
        assert arch in ARCHITECTURES, arch
    families = {re.match(r"[a-z]+(_v\d)?", arch)[0] for arch in ARCHITECTURES}  # type: ignore[index]
    assert [family for family in families if f"`{family}" not in TEXT] == []


def test_nobody_is_told_to_install_a_stranger_s_package() -> None:
    """The package index has another project by our name."""
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Dockerfile", *ROOT.glob("serve/*.txt")]
    files += [
        file for stage in ("lfdeploy", "training", "export", "serve") for file in (ROOT / stage).rglob("*.py")
    ]
    told = re.compile(r"pip install[^\n`;)]*[ '\"]lfdeploy(?![\w./-])")
    assert [str(file) for file in files if told.search(file.read_text())] == []


def test_it_is_short() -> None:
    assert len(TEXT.split()) < 1200


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
    ids=lambda p: p.name,
)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles
            }, anchor


def test_flags_in_the_readme_exist() -> None:
    known = {option for command in main.commands.values() for p in command.params for option in p.opts}
    for line in (
        line for block in BLOCKS + CALIBRATED for line in lines(block) if line.startswith("lfdeploy")
    ):
        for flag in re.findall(r"(?<=\s)--?[a-z][a-z-]*", line):
            assert flag in known, line


@pytest.mark.parametrize(
    ("page", "commands", "others"),
    [
        ("training", ("train", "compare"), ("--logdir", "--help-all")),
        ("serving", ("serve", "export"), ("--data-binary", "--workers", "--no-deps")),
    ],
)
def test_flags_in_the_pages_exist(page: str, commands: tuple[str, ...], others: tuple[str, ...]) -> None:
    known = {option for name in commands for p in main.commands[name].params for option in p.opts}
    for flag in re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", (ROOT / "docs" / f"{page}.md").read_text()):
        assert flag in known or flag in others, flag


@pytest.mark.slow
def test_the_walk_on_own_pictures_runs_as_written(tiny_run: Run, tmp_path: Path) -> None:
    """The second block, word for word but for the number of epochs, on two classes of digits as files."""
    data = tiny_run.data()
    for split, share, count in (("my_pictures", data.train, 40), ("new_pictures", data.test, 5)):
        for label in (0, 1):
            place = tmp_path / split / f"digit {label}"
            place.mkdir(parents=True)
            for index in (share.labels == label).nonzero()[0][:count]:
                Image.fromarray(share.images[index]).resize((64, 64)).save(place / f"{index}.png")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in lines(BLOCKS[2]):
        line = line.replace("--time 8m", "--epochs 1 --image-size 64")
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stderr)
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 11


@pytest.mark.slow
def test_the_calibrated_export_runs_as_written(tiny_run: Run, tmp_path: Path) -> None:
    shutil.copytree(
        tiny_run.path, tmp_path / "runs" / "latest", ignore=shutil.ignore_patterns("artifacts", "checkpoint")
    )
    (tmp_path / "new_pictures").mkdir()
    test = tiny_run.data().test
    for index in range(40):
        Image.fromarray(test.images[index]).save(tmp_path / "new_pictures" / f"{index}.png")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    said = ""
    for line in lines(CALIBRATED[0]):
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stderr)
        said += done.stdout + done.stderr
    assert "validation pictures; calibration error on test" in said and "39.png" in said
