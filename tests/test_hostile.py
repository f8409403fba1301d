"""Every hostile file yields a score or one line, through the real command and the shipped model."""

import json
import subprocess
import time
from pathlib import Path

from .conftest import interpreter

# The command line in a process of its own, which leaves its peak memory in bytes behind. Not
# ru_maxrss where it can be helped: on Linux a child inherits the peak of the test runner itself.
COMMAND = """
import resource
from pathlib import Path
from artimuse import cli
peak_file, *arguments = sys.argv[1:]
try:
    cli.main(arguments)
finally:
    status = Path("/proc/self/status")
    if status.exists():
        peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(peak_file).write_text(str(peak))
"""


def artimuse(peak_file: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        interpreter(COMMAND, peak_file, *arguments),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_hostile_folder_in_one_run(shared_data, tmp_path) -> None:
    start = time.perf_counter()
    result = artimuse(tmp_path / "peak", "score", shared_data / "hostile", "--json")
    seconds = time.perf_counter() - start
    assert result.returncode == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == sum(f.suffix != ".csv" for f in (shared_data / "hostile").iterdir())
    for row in rows:
        assert (row["score"] is None) == (row["error"] is not None)
        if row["error"]:
            assert "\n" not in row["error"]
            assert f"failed: {row['path']}: {row['error']}\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert seconds < 60
    assert int((tmp_path / "peak").read_text()) < 1e9


def test_files_at_the_pixel_limit_stay_under_a_gigabyte_together(tmp_path) -> None:
    from PIL import Image

    paths = [tmp_path / f"large{i}.png" for i in range(3)]
    Image.new("RGBA", (12_000, 7_400), "teal").save(paths[0], compress_level=1)
    for copy in paths[1:]:
        copy.write_bytes(paths[0].read_bytes())
    result = artimuse(tmp_path / "peak", "score", *paths, "--json")
    assert result.returncode == 0, result.stderr
    assert int((tmp_path / "peak").read_text()) < 1e9
