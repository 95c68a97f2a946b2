"""The training scripts of one run, each in a process and with one thread: several can run side by side."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TRAINING = Path(__file__).parents[1] / "training"
# glibc gives large blocks back to the system, to ask for them again in the next step: a sixth of the time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", **KEEP_MEMORY}
_MINUTES = "minutes: "  # the last line of a log


class Runner:
    """The training scripts, in one process with one thread each: several seeds can run side by side."""

    def __init__(self, args, recipe: dict, data: list, folder: Path, seed: int | None = None):
        self.seed, self.precision = seed or args.seed, args.mixed_precision
        self.jobs, self.workers = args.jobs, args.workers
        self.recipe, self.data, self.folder = recipe, data, folder

    def experts(self, rows: str, num_folds: int | None = None) -> dict[str, Path]:
        """Of all rows or in folds."""
        made = {kind: self.folder / rows / kind for kind in ("ebc", "au")}
        from_ebc = self.recipe.get("au_from_ebc", False)

        def command(kind: str, fold: int) -> tuple:
            flags = [*self.recipe["all"], *self.recipe[kind], "--seed", self.seed]
            if kind == "au" and from_ebc:
                flags += ["--init_from", made["ebc"]]
            if kind == "au" and "--data_dir" in self.data:
                flags += ["--au_labels", Path(self.data[-1]) / "ground_truth.parquet"]
            own = ["--num_folds", num_folds, "--fold", fold] if num_folds else []
            return f"train_{kind}.py", made[kind], [*flags, *own], f"-{fold}" if num_folds else ""

        for kinds in (["ebc"], ["au"]) if from_ebc else (["ebc", "au"],):
            commands = [command(kind, fold) for kind in kinds for fold in range(num_folds or 1)]
            with ThreadPoolExecutor(self.jobs) as threads:
                list(threads.map(lambda command: self.train(*command), commands))
        return made

    def train(self, script: str, output_dir: Path, flags: list, log: str = "") -> None:
        self.launch(script, output_dir, [*flags, "--resume_from_checkpoint", "latest"], log)

    def label(self, rows: str, kinds: dict, more: list, name: str = "labels") -> Path:
        target = self.folder / rows / name
        flags = [word for kind, path in kinds.items() for word in (f"--{kind}", path)]
        flags += [] if "model" in kinds else ["--tta"]
        self.launch("label.py", target, [*flags, *more])
        return target

    def launch(self, script: str, output_dir: Path, flags: list, log: str = "") -> None:
        words = [*self.data, "--output_dir", output_dir, "--dataloader_num_workers", self.workers, *flags]
        words = ["--mixed_precision", self.precision, "--dynamo_backend", "no", TRAINING / script, *words]
        words = ["--num_processes", "1", "--num_machines", "1", *map(str, words)]
        done = output_dir.with_name(f"{output_dir.name}{log}.log")
        if done.exists():
            if done.open().readline().strip() != " ".join(words):
                sys.exit(
                    f"{done} is of another run, by other flags: delete it and {output_dir}, or name another folder."
                )
            return
        print(script, output_dir, flush=True)
        done.parent.mkdir(parents=True, exist_ok=True)
        running, start = done.with_suffix(".running.log"), time.perf_counter()
        with open(running, "w") as written:
            print(*words, file=written, flush=True)
            launcher = [sys.executable, "-m", "accelerate.commands.launch"]
            run = subprocess.run([*launcher, *words], stdout=written, stderr=written, env=ONE_THREAD)
            print(f"\n{_MINUTES}{(time.perf_counter() - start) / 60:.2f}", file=written)
        if run.returncode:
            sys.exit(f"{script} failed, see {running}")
        running.rename(done)

    def cost(self, rows: str) -> dict:
        """Faces drawn in training, and minutes that all commands took."""
        logs = [file.read_text() for file in (self.folder / rows).glob("*.log")]
        configs = [config for kind in ("ebc", "au") for config in (self.folder / rows / kind).rglob("config.json")]
        configs = [c for c in configs if c.parent.parent.name != "warm_start" or c.parent.name.startswith("0-")]
        records = [r for config in configs for r in json.loads(config.read_text())["training"].values()]
        return {
            "draws": sum(record["drawn" if "drawn" in record else "sampler"]["draws"] for record in records),
            "minutes": round(sum(float(log.rpartition(_MINUTES)[2]) for log in logs), 1),
        }
