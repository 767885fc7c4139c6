"""Coverage-guided fuzzing of one reader: python fuzz.py READER CORPUS_FOLDER -max_total_time=60

Needs `pip install atheris`. A crash is anything but a result or an error of detrigger's own; libFuzzer also
counts 30 seconds or 2 GB for one input as one.
"""

import resource
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

with atheris.instrument_imports(include=["detrigger", "pickletools", "tarfile", "tomllib", "zipfile"]):
    from hostile.readers import READERS, ends_well


def main() -> None:
    """Puts sound files into the corpus, and fuzzes."""
    name, corpus, *options = sys.argv[1:]
    Path(corpus).mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(READERS[name][1]()):
        (Path(corpus) / f"seed-{i}").write_bytes(seed)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        flags = ["-timeout=30", "-rss_limit_mb=2500", "-max_len=20000", *options]
        atheris.Setup(
            [sys.argv[0], corpus, *flags], lambda data: ends_well(name, data, Path(folder)) and None
        )
        atheris.Fuzz()


main()
