"""The benchmarks by name."""

from eval.vqa.scorers import easy_vqa, gqa, local, mme, mmmu, multiple_choice, pope, textvqa, vqav2
from eval.vqa.scorers.task import Task
from runtime.errors import UserError

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        easy_vqa.TASK,
        vqav2.TASK,
        textvqa.TASK,
        gqa.TASK,
        pope.TASK,
        mme.TASK,
        multiple_choice.SEED_BENCH,
        multiple_choice.MMBENCH,
        mmmu.TASK,
        local.EXACT,
        local.SOFT,
        local.OPTION,
    )
}


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: if there is none.
    """
    if name not in TASKS:
        raise UserError(f"no task is called {name!r}; choose one of {', '.join(TASKS)}")
    return TASKS[name]
