"""What may know what: the crates, the core's layers, and what importing the package costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
CRATES = ROOT / "crates"
CORE = CRATES / "core/src"

# The layers of the core, each a folder, with those that it may import; the leaves are files beside them.
LAYERS = {
    "session": {"commands", "protocol", "state", "table", "store", "vocabulary", "leaves"},
    "commands": {"state", "table", "store", "vocabulary", "leaves"},
    "state": {"table", "store", "vocabulary", "leaves"},
    "table": {"vocabulary", "leaves"},
    "protocol": {"vocabulary", "leaves"},
    "store": {"leaves"},
    "vocabulary": set(),
    "leaves": set(),
}
LEAVES = {"base64", "clock", "glob", "json_value", "limits", "output", "version"}


def ours(crate: str) -> set[str]:
    manifest = tomllib.loads((CRATES / crate / "Cargo.toml").read_text())
    return {name.removeprefix("globalcache-") for name in manifest["dependencies"] if name.startswith("globalcache-")}


def test_crates_depend_one_way() -> None:
    assert {crate.name: ours(crate.name) for crate in CRATES.iterdir()} == {
        "core": set(),
        "loadgen": set(),
        "server": {"core"},
        "python": {"core", "loadgen", "server"},
    }


def test_only_one_crate_knows_python() -> None:
    for file in CRATES.glob("*/src/**/*.rs"):
        if file.parent.parent.name != "python":
            assert "pyo3" not in file.read_text(), file


def test_the_core_has_no_sockets_threads_or_clocks() -> None:
    for file in CORE.glob("**/*.rs"):
        for word in ("std::net", "std::thread", "std::time", "SystemTime", "Instant::now", "getrandom", "println!"):
            assert word not in file.read_text(), f"{file} names {word}"


def test_nothing_is_handed_over_by_thread() -> None:
    for file in CORE.glob("**/*.rs"):
        assert "thread_local!" not in code_of(file), file


class Arrow(NamedTuple):
    """A line of one module that names another one."""

    source: str
    target: str
    place: str

    def __str__(self) -> str:
        return f"{self.place} imports {self.target}"


def code_of(file: Path) -> str:
    """A Rust file without its comments, strings, test modules and visibilities, with every line where it was."""
    comment, string, letter = r"//[^\n]*", r'r#".*?"#|"(?:[^"\\]|\\.)*"', r"'(?:[^'\\\n]|\\[^'\n]+)'"
    blank = re.compile(rf"{comment}|{string}|{letter}|\bpub\(in [\w:]+\)", re.DOTALL)
    text = blank.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), file.read_text())
    return re.split(r"#\[cfg\(test\)\]\s*mod ", text)[0]


def paths_of(code: str) -> Iterator[tuple[str, int]]:
    """The paths that a text names, with their lines; those in braces are written out."""
    for found in re.finditer(r"\buse ([^;]+);|(?<![\w:])\w+(?:::\w+)+", code):
        line = code.count("\n", 0, found.start()) + 1
        yield from ((path, line) for path in (written_out(found[1]) if found[1] else [found[0]]))


def written_out(tree: str) -> Iterator[str]:
    """`a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`."""
    head, brace, rest = tree.strip().partition("{")
    if not brace:
        yield head.split(" as ")[0].removesuffix("::self")
        return
    depth, part = 0, ""
    for letter in rest.rstrip()[:-1] + ",":
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            if part.strip():
                yield from (head + path for path in written_out(part))
            part = ""
        else:
            part += letter


def module_of(path: str, source: tuple[str, ...], modules: set[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The module that a path of `source` leads to; None if it leads out of the crate or only to names of `source`."""
    first, *rest = path.split("::")
    if first == "crate":
        place: tuple[str, ...] = ()
    elif first in ("self", "super"):
        place = source
        rest = [first, *rest]
        while rest and rest[0] in ("self", "super"):
            place = place[:-1] if rest.pop(0) == "super" else place
    elif (*source, first) in modules:
        place, rest = source, [first, *rest]
    else:
        return None
    while rest and (*place, rest[0]) in modules:
        place = (*place, rest.pop(0))
    return place


def arrows_of(root: Path) -> list[Arrow]:
    """Which module of a crate names which, `lib.rs` apart."""
    names = {file: file.relative_to(root).with_suffix("").parts for file in root.rglob("*.rs") if file.name != "lib.rs"}
    files = {tuple(part for part in name if part != "mod"): file for file, name in names.items()}
    arrows = []
    for source, file in files.items():
        for path, line in paths_of(code_of(file)):
            target = module_of(path, source, set(files))
            if target and target != source:
                arrows.append(Arrow("/".join(source), "/".join(target), f"{file.relative_to(root)}:{line}"))
    return arrows


def layer_of(module: str) -> str:
    name = module.split("/", maxsplit=1)[0]
    return "leaves" if name in LEAVES else name


def against_the_order(arrows: list[Arrow]) -> list[Arrow]:
    """The arrows to a layer that their module may not import."""
    pairs = [(arrow, layer_of(arrow.source), layer_of(arrow.target)) for arrow in arrows]
    return [arrow for arrow, source, target in pairs if source != target and target not in LAYERS[source]]


def circle_in(arrows: list[Arrow]) -> list[Arrow]:
    """The arrows of one circle, if there is any."""
    leaving: dict[str, list[Arrow]] = {}
    for arrow in arrows:
        leaving.setdefault(arrow.source, []).append(arrow)
    done: set[str] = set()

    def follow(module: str, way: list[Arrow]) -> list[Arrow]:
        for arrow in leaving.get(module, []):
            places = [step.source for step in [*way, arrow]]
            if arrow.target in places:
                return [*way, arrow][places.index(arrow.target) :]
            if arrow.target not in done and (circle := follow(arrow.target, [*way, arrow])):
                return circle
        done.add(module)
        return []

    return next((circle for module in leaving if (circle := follow(module, []))), [])


def test_the_layers_of_the_core_go_one_way() -> None:
    arrows = arrows_of(CORE)
    assert len(arrows) > 200
    assert {layer_of(arrow.source) for arrow in arrows} <= set(LAYERS)
    wrong = against_the_order(arrows)
    assert not wrong, "\n".join(map(str, wrong))


def test_no_modules_of_the_core_import_each_other() -> None:
    circle = circle_in(arrows_of(CORE))
    assert not circle, "\n".join(map(str, circle))


def names_told_apart(root: Path) -> list[str]:
    """Where a command's name is written outside the table, other than as a reply; words of protocols are their own."""
    names = set(re.findall(r'^ +"([A-Z.]+)" -?\d', (root / "table/rows.rs").read_text(), re.MULTILINE))
    assert {"GET", "CACHE.FETCH"} <= names
    words = names | {name.lower() for name in names if "." in name}
    places = []
    for file in root.rglob("*.rs"):
        if file.relative_to(root).parts[0] in ("table", "protocol") or file.name == "tests.rs":
            continue
        code = re.split(r"#\[cfg\(test\)\]\s*mod ", file.read_text())[0]
        for number, line in enumerate(code.splitlines(), 1):
            told = re.sub(r'//.*|Reply::Word\("\w+"\)', "", line)
            if any(text.split("|")[0] in words for text in re.findall(r'"([\w.|]+)"', told)):
                places.append(f"{file.relative_to(root)}:{number} {line.strip()}")
    return places


def test_commands_are_told_apart_by_their_rows() -> None:
    places = names_told_apart(CORE)
    assert not places, "\n".join(places)


def test_names_outside_the_table_are_found(tmp_path: Path) -> None:
    texts = {
        "table/rows.rs": '    "GET" 2 READ\n    "CACHE.FETCH" -2 READ\n',
        "gate.rs": 'if row.name == "GET" {}\nlet ok = "GETS"; // "GET"\nReply::Word("GET")\n',
        "state/users.rs": 'has_name("cache.fetch|x");\n#[cfg(test)]\nmod tests { lookup(b"GET"); }\n',
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(names_told_apart(tmp_path)) == [
        'gate.rs:1 if row.name == "GET" {}',
        'state/users.rs:1 has_name("cache.fetch|x");',
    ]


def test_arrows_are_found_however_they_are_written(tmp_path: Path) -> None:
    texts = {
        "store/mod.rs": "mod item;\npub use item::Item;\n",
        "store/item.rs": "use std::io;\n\nuse crate::{\n    clock::Now,\n    state::engine::{self, A as B},\n};\n",
        "state/mod.rs": "mod engine;\nmod users;\n",
        "state/engine.rs": "fn run() { crate::commands::get(super::users::all()) } // crate::session\n",
        "state/users.rs": 'const A: char = \'"\'; const B: &str = "crate::session";\nuse super::engine::Engine;\n',
        "store/record.rs": "pub(in crate::store) struct Record;\n",
        "commands.rs": "#[cfg(test)]\nmod tests {\n    use crate::session;\n}\n",
        "clock.rs": "",
        "session.rs": "use crate::commands::*;\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    arrows = arrows_of(tmp_path)
    assert sorted(set(map(str, arrows))) == [
        "session.rs:1 imports commands",
        "state/engine.rs:1 imports commands",
        "state/engine.rs:1 imports state/users",
        "state/users.rs:2 imports state/engine",
        "store/item.rs:3 imports clock",
        "store/item.rs:3 imports state/engine",
        "store/mod.rs:2 imports store/item",
    ]
    assert {(arrow.source, arrow.target) for arrow in against_the_order(arrows)} == {
        ("state/engine", "commands"),
        ("store/item", "state/engine"),
    }
    assert {arrow.source for arrow in circle_in(arrows)} == {"state/engine", "state/users"}


def python_arrows(package: Path) -> list[Arrow]:
    """Which module of a package imports which when it is loaded; imports within functions and for types are none."""
    files = {".".join(file.relative_to(package.parent).with_suffix("").parts): file for file in package.rglob("*.py")}
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}
    arrows = []
    for source, file in files.items():
        for line in ast.parse(file.read_text()).body:
            if isinstance(line, ast.ImportFrom) and line.module in files:
                places = {f"{line.module}.{name.name}" for name in line.names}
                place = f"{file.relative_to(package.parent)}:{line.lineno}"
                arrows += [Arrow(source, target, place) for target in places & set(files) or {line.module}]
    return arrows


def test_no_modules_of_the_package_import_each_other() -> None:
    arrows = python_arrows(ROOT / "src/globalcache")
    assert len(arrows) > 200
    circle = circle_in(arrows)
    assert not circle, "\n".join(map(str, circle))


def test_the_client_imports_no_heavy_module() -> None:
    code = "import sys, globalcache; globalcache.Cache(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "globalcache.client.connection_pool" in loaded
    assert not {"globalcache._core", "pydantic", "sqlalchemy", "typer", "rich", "zstandard", "asyncio", "ssl"} & set(
        loaded
    )
