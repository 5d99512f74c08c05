"""The rooms at the top are links into one package, and the wheel carries that package alone."""

import re
import subprocess
import sys
import zipfile

import pytest

ROOMS = ("server", "client", "common", "privacy")


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_at_the_top_lead_into_the_package(repository, room):
    link = repository / room
    assert link.is_symlink()
    assert link.resolve() == repository / "src" / "manikin" / room


def test_the_wheel_has_one_top_level_package_with_every_room_and_data_file(repository, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, "."]
    subprocess.run([str(part) for part in command], cwd=repository, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"manikin"}
    for room in ROOMS:
        assert f"manikin/{room}/__init__.py" in names
    shipped = {
        str(file.relative_to(repository / "src"))
        for suffix in ("html", "safetensors", "toml")
        for file in (repository / "src").rglob(f"*.{suffix}")
    }
    assert shipped <= set(names)


def test_imports_point_one_way(repository):
    done = subprocess.run(["lint-imports"], cwd=repository, capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stdout


def test_one_module_on_each_side_knows_flower_and_the_superlink_s_three_its_internals(repository):
    imports = re.compile(r"^\s*(?:from|import) (flwr[.\w]*)", re.MULTILINE)
    known = {"flwr.app", "flwr.serverapp", "flwr.clientapp"}
    server = {"app.py": False, "flower.py": True, "guard.py": True, "bundle.py": True}
    for side, allowed in {"server": server, "client": {"app.py": False}}.items():
        folder = repository / "src" / "manikin" / side
        used = {f.name: set(imports.findall(f.read_text())) for f in folder.rglob("*.py")}
        assert {name: bool(modules - known) for name, modules in used.items() if modules} == allowed


def _environment():
    import os
    from pathlib import Path

    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
