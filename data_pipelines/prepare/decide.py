"""What only all parts together tell: which records are rejected late, and which side each is on.

Ids that come twice, images that come twice, and conversations about images that are not there, or
are on the other side of a split. Reads accounts alone, and no image.
"""

from collections import deque
from dataclasses import dataclass, field

from data_pipelines.prepare.part import SIDES, Account, refusal
from data_pipelines.prepare.settings import PrepareSettings
from runtime.errors import UserError


class UnusableError(UserError):
    """These parts cannot become a data set: other data or settings are needed."""


@dataclass
class Decision:
    """What becomes of every record."""

    sides: list[list[str | None]] = field(default_factory=list)
    """Of each part, of each of its entries: "train", "test", or None for a reject."""
    rejects: list[dict[str, str]] = field(default_factory=list)
    """All rejects, part by part."""
    parts: list[dict[str, str]] = field(default_factory=list)
    """Bad parts of accepted records."""
    duplicates: list[dict[str, str]] = field(default_factory=list)
    """`id`, and the id of the record that it has the same image `of`."""

    def check(self, test_fraction: float) -> None:
        """Refuse what leaves a data set, or a side of a split, without records."""
        found = {side for sides in self.sides for side in sides}
        if found == {None} or not found:
            last = self.rejects[-1] if self.rejects else {"id": "none", "reason": "no record"}
            why = f"{last['id']!r}: {last['reason']}"
            raise UnusableError(f"no record could be used, the last one {why}")
        for side in SIDES if test_fraction else ():
            if side not in found:
                raise UnusableError(
                    f"no record fell into the {side} split; give another --test-fraction"
                )


def decide(accounts: list[Account], settings: PrepareSettings) -> Decision:
    """Settle what becomes of every record of the accounts, which are of all parts, in order."""
    decision = Decision()
    seen: dict[str, tuple[int, str]] = {}  # id -> its source, its side
    first: dict[str, str] = {}  # digest -> id
    late: list[list[dict[str, str]]] = []  # rejects of each part that its account does not know
    sources = settings.sources
    for account in accounts:
        source = account.part.source
        decision.sides.append([])
        late.append([])
        for entry in account.entries:
            reason = None
            if entry.record_id in seen:
                if (before := seen[entry.record_id][0]) != source:
                    raise UnusableError(
                        f"two records are called {entry.record_id}, one of {sources[before]} and "
                        f"one of {sources[source]}; rename one, or prepare the sources into "
                        "separate folders, which training mixes"
                    )
                reason = "another record of this id came before"
            elif entry.digest in first:
                of = first[entry.digest]
                decision.duplicates.append({"id": entry.record_id, "of": of})
                if settings.drop_duplicates:
                    reason = f"its image is the same as that of {of}"
            if reason is not None:
                late[-1].append(refusal(entry.record_id, sources[source], reason))
                decision.sides[-1].append(None)
                continue
            if entry.digest is not None:
                first.setdefault(entry.digest, entry.record_id)
            side = entry.first_side(settings.test_fraction)
            seen[entry.record_id] = (source, side)
            decision.sides[-1].append(side)
    for number, entry_id, reason in _follow_references(accounts, decision.sides, seen):
        late[number].append(refusal(entry_id, sources[accounts[number].part.source], reason))
    for account, refused, sides in zip(accounts, late, decision.sides, strict=True):
        decision.rejects += account.rejects + refused
        # Parts of a record that is rejected after all are gone with it.
        kept = [part for part in account.parts if sides[part["entry"]] is not None]
        decision.parts += [{key: part[key] for key in part if key != "entry"} for part in kept]
    return decision


def _follow_references(
    accounts: list[Account], sides: list[list[str | None]], seen: dict[str, tuple[int, str]]
) -> list[tuple[int, str, str]]:
    """Put conversations on the side of the images they show, and reject those that lack one.

    `sides` are those of the accounts' entries, changed in place; `seen` has the source and the side
    of each record. Returns part, id and reason of each reject.
    """
    has_image = {
        entry.record_id
        for account, its_sides in zip(accounts, sides, strict=True)
        for entry, side in zip(account.entries, its_sides, strict=True)
        if entry.digest is not None and side is not None
    }
    waiting = deque(
        (number, row)
        for number, account in enumerate(accounts)
        for row, entry in enumerate(account.entries)
        if entry.shown
    )
    shown_by: dict[str, list[tuple[int, int]]] = {}
    for number, row in waiting:
        for name in set(accounts[number].entries[row].shown or ()):
            shown_by.setdefault(name, []).append((number, row))
    rejects = []
    while waiting:
        number, row = waiting.popleft()
        entry, side = accounts[number].entries[row], sides[number][row]
        if side is None:
            continue
        shown = entry.shown or []
        if missing := [name for name in shown if name not in has_image]:
            reason = f"a conversation shows the image of {missing[0]}, which is not there"
        else:
            theirs = {seen[name][1] for name in shown} | ({side} if entry.digest else set())
            if len(theirs) == 1:
                sides[number][row] = theirs.pop()
                continue
            reason = "a conversation shows images of both sides of the split"
        rejects.append((number, entry.record_id, reason))
        sides[number][row] = None
        if entry.record_id in has_image:  # its own image is gone too, and who shows it lacks it now
            has_image.remove(entry.record_id)
            waiting.extend(shown_by.get(entry.record_id, []))
    return rejects
