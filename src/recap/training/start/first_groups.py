"""The first groups of a training run: whether losses on order find rows to compare."""

from recap.config.recap import RecapConfig
from recap.data.batch import Batch
from recap.model.objective.objective import groups_of
from recap.reporting import Say
from recap.training.step import split_rows

_STEPS = 10


class FirstGroups:
    """Counts the groups of the first batches of this process, and those of one row, by what a group is."""

    def __init__(self, config: RecapConfig, say: Say) -> None:
        self.micro_batches, self.say = config.training.gradient_accumulation or 1, say
        self.compared: dict[str, list[str]] = {}
        """`user` or `request` → the fields of the losses that compare its rows."""
        for name, task in config.model.tasks.items():
            for field, loss in task.ranking_losses.items():
                self.compared.setdefault(loss.group, []).append(f"model.tasks.{name}.{field}")
        self.groups, self.single = dict.fromkeys(self.compared, 0), dict.fromkeys(self.compared, 0)
        self.steps = 0

    def add(self, batch: Batch | None, *, is_last: bool) -> None:
        """Count the groups of this rank's rows in a step; after the last to count, warn if most have one row."""
        if self.steps == _STEPS or not self.compared:
            return
        for micro_batch in split_rows(batch, self.micro_batches) if batch is not None else ():
            for group, ids in groups_of(micro_batch).items():
                if group in self.compared:
                    _, counts = ids.unique(return_counts=True)  # type: ignore[no-untyped-call]
                    self.groups[group] += len(counts)
                    self.single[group] += int((counts == 1).sum())
        self.steps = _STEPS if is_last else self.steps + 1
        if self.steps == _STEPS:
            self._report()

    def _report(self) -> None:
        for group, fields in self.compared.items():
            if self.groups[group] and self.single[group] > self.groups[group] / 2:
                share = self.single[group] / self.groups[group]
                self.say(
                    f"warning: {share:.0%} of the {group}s in the first batches have one row there, with which "
                    f"{', '.join(fields)} can compare nothing; keep the rows of a {group} together in the files, and "
                    "lower train_data.shuffle_window_rows"
                )
