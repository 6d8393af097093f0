"""Without this file the README could show code that does not run and commands that do not exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks(language: str, text: str) -> list[tuple[int, str]]:
    """(line number, content) of each fenced block of that language."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start(1)) + 1, m.group(1)) for m in found]


def commands(text: str) -> list[list[str]]:
    """The arguments of each `wspace ...` line in the bash blocks."""
    lines = [line for _, block in blocks("bash", text) for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [w[1:] for w in words if w and Path(w[0]).name == "wspace"]


def test_blocks_and_commands_are_found() -> None:
    shell = "$ wspace run a.yml \\\n  out # why\n.venv/bin/wspace diff A B\nmake demo\n"
    text = f"a\n```python\nx = 1\n```\n```bash\n{shell}```\n"
    assert blocks("python", text) == [(3, "x = 1\n")]
    assert commands(text) == [["run", "a.yml", "out"], ["diff", "A", "B"]]


def test_python_blocks_run_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = blocks("python", README.read_text(encoding="utf-8"))
    assert found, "README.md has no ```python block"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a reader has it
        for line, block in found:
            exec(compile("\n" * (line - 1) + block, str(README), "exec"), namespace)


def test_bash_blocks_name_real_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Parsed in a folder that has the recipes, and everything that a shown command reads from out/."""
    from wspace.app import cli

    found = commands(README.read_text(encoding="utf-8"))
    assert found, "README.md has no ```bash block with a wspace command"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for word in {word for arguments in found for word in arguments if word.startswith("out/")}:
        (tmp_path / word).mkdir(parents=True)
    for arguments in found:
        try:
            cli.parser()[0].parse_args(arguments)
        except SystemExit as stop:
            assert stop.code == 0, f"README.md shows `wspace {shlex.join(arguments)}`, which the CLI refuses"


def test_files_named_in_links_and_commands_exist() -> None:
    text = README.read_text(encoding="utf-8")
    links = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    recipes = [word for words in commands(text) for word in words if word.startswith("configs/")]
    missing = [name for name in links + recipes if name and not (ROOT / name).exists()]
    assert not missing
