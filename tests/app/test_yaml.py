"""Without this file a recipe could lose a line, a duplicate key or a number, or run code, and nobody would see."""

from __future__ import annotations

from pathlib import Path

import pytest

from wspace.app.node import Node, Range
from wspace.app.yaml_strict import MAX_BYTES, parse, read
from wspace.core.errors import RecipeError


def entry(text: str) -> Node:
    (document,) = parse(f"x: {text}", "r.yml")
    return document.mapping()["x"]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD = [
    ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3", "r.yml:5: b: duplicate key 'c', first written at r.yml:3"),
    ("a: 1\n'a': 2", "r.yml:2: duplicate key 'a', first written at r.yml:1"),
    (
        "a: 1\nb: !!python/object/apply:os.system [ls]",
        "r.yml:2: b: the tag '!!python/object/apply:os.system' is refused",
    ),
    ("!local {a: 1}", "r.yml:1: the tag '!local' is refused"),
    ("? !!python/name:os.system x\n: 1", "the tag '!!python/name:os.system' is refused"),
    ("a: !!binary aGk=", "the tag '!!binary' is refused"),
    ("a: !!str 5", "the tag '!!str' is refused"),
    (BOMB, "more than 100000 values once its aliases are followed"),
    ("a:\n- &a [*a]", "r.yml:2: a[0][0]: an alias that holds itself"),
    ("[" * 3000, "r.yml: nested too deep"),
    ("a: 'x", "r.yml:1: not YAML"),
    ("a: 1\n\tb: 2", "r.yml:2: not YAML: found character '\\t'"),
    ("a: *nowhere", "r.yml:1: not YAML: found undefined alias 'nowhere'"),
    ("a: \x00", "r.yml: not YAML"),
    ("? [1, 2]\n: 3", "a key must be one word"),
    ("a: {<<: 3}", "must be a mapping"),
    ("", "r.yml: the recipe is empty"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_yaml_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text, "r.yml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_value_knows_its_line_and_path() -> None:
    first, second = parse("a: 1\nb:\n- c: 2\n  d:\n    e: 3\n---\nf: 4", "r.yml")
    item = first.mapping()["b"].items()[0].mapping()
    places = [item["c"], item["d"], item["d"].mapping()["e"], second.mapping()["f"]]
    assert [node.place for node in places] == ["r.yml:3", "r.yml:4", "r.yml:5", "r.yml:7"]
    assert item["d"].mapping()["e"].path == "b[0].d.e"


def test_merge_keys_fill_in_and_never_override() -> None:
    (document,) = parse("x: &x {p: 1, q: 2}\nz: &z {q: 5, r: 6}\ny:\n  <<: [*x, *z]\n  p: 3", "r.yml")
    assert document.mapping()["y"].plain() == {"p": 3, "q": 2, "r": 6}


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 0.001), ("-2", -2.0), ("+.5", 0.5), ("3.", 3.0), ("1E5", 1e5), ("0", 0.0), ("6.02e+23", 6.02e23)],
)
def test_numbers_as_people_write_them(text: str, number: float) -> None:
    assert entry(text).number() == number


@pytest.mark.parametrize("text", ["1_000", "0o17", "017", "0x1F", "0b11", "1:30", ".inf", "-.inf", ".nan"])
def test_numbers_that_yaml_versions_read_differently_are_refused(text: str) -> None:
    for read_as in (Node.number, Node.integer, Node.plain):
        with pytest.raises(RecipeError, match=r"r\.yml:1: x: .* is read differently by YAML versions"):
            read_as(entry(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("off", "must be a number, not 'off'"),
        ("'0.5'", "not the quoted text '0.5': write it without quotes"),
        ("1e999", "too large"),
        ("[1]", "must be a number, not a list"),
        ("", "must be a number, not nothing"),
        ("1.5", "1.5 is out of range (0, 1]"),
        ("0", "0 is out of range (0, 1]"),
        ("\u0665", "must be a number"),
    ],
)
def test_what_is_no_number_in_range_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        entry(text).number(Range(0, 1, open_low=True))
    assert message in str(caught.value)


def test_switches_and_words_by_the_field_that_reads_them() -> None:
    assert [entry(word).boolean() for word in ("true", "True", "yes", "on", "off", "NO")] == [True] * 4 + [False] * 2
    assert [entry(word).text() for word in ("off", "no", "12", "2001-01-01")] == ["off", "no", "12", "2001-01-01"]
    for text in ("'true'", "1", "y", "null"):
        with pytest.raises(RecipeError, match="must be true or false"):
            entry(text).boolean()


def test_whole_numbers() -> None:
    assert entry("-12").integer() == -12
    for text in ("5.0", "1e3", "true"):
        with pytest.raises(RecipeError, match="must be a whole number"):
            entry(text).integer()


def test_plain_data_without_a_declared_type() -> None:
    (document,) = parse("{a: [1, 2.5, 1e-3], b: null, c: 'off', d: True, e: word, f: '7'}", "r.yml")
    assert document.plain() == {"a": (1, 2.5, 0.001), "b": None, "c": "off", "d": True, "e": "word", "f": "7"}
    with pytest.raises(RecipeError, match="write true, false, or quote the word"):
        entry("off").plain()


def test_messages_show_control_characters() -> None:
    with pytest.raises(RecipeError) as caught:
        entry('"\\x1b[31m"').number()
    assert "\x1b" not in str(caught.value)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "large.yml").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9")
    for name, message in [
        ("large.yml", "too large"),
        ("latin.yml", "not UTF-8"),
        ("none.yml", "no such file"),
        ("", "folder"),
    ]:
        with pytest.raises(RecipeError, match=message):
            read(tmp_path / name)
    (tmp_path / "mark.yml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert parse(read(tmp_path / "mark.yml"), "r.yml")[0].plain() == {"a": 1}
