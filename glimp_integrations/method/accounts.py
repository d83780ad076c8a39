"""When routing should not happen at all: an account of what it takes, by kind of call.

Routing pays where the small model writes much of the text, and much faster. It does not where
both models have to read a long prompt for a short reply, or where nearly every step is the large
model's. Which of the two it is differs between the calls of one program, so the account is kept
by *kind*, and says for each call whether it is routed or the large model's alone.

What the large model alone takes is learned from calls that it writes alone: first a few, to
compare, and later a rare one. Where routing turns out to lose, a rare call is routed, because
that can change. In money nothing has to be tried: the prices tell what the same text would have
cost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from threading import Lock

from glimp_integrations.method.cost_ratio import Outcome, Ratio, Route, money_ratio, time_ratio

__all__ = ["ROUTED", "Accounts", "Outcome", "Plan", "Route"]

_REMEMBERED = 24  # calls of a kind, routed and alone each
_FEWEST = 4  # routed calls of a kind, before which nothing is said; half as many alone
_LEARNING = 24  # calls of a kind, after which the ratio stands, however unsure
_CHEAPER = 0.97  # to change back: not at every breath of the machine
_FIRST_TRIAL, _LAST_TRIAL = 16, 128  # calls between trials of the other way; doubled each time
_CONVINCING = 3  # trials that routing has to win before calls are routed again
_NOTICED = 1.0  # seconds; below this nothing is compared


@dataclass(frozen=True, slots=True)
class Plan:
    """How a call is to be written.

    Attributes:
        route: Routed, or by the large model alone.
        reason: Why, in words.
        warning: Said to the user once: routing does not pay here. Empty: nothing to say.
    """

    route: Route
    reason: str
    warning: str = ""


ROUTED = Plan("routed", "")


def _window() -> deque[Outcome]:
    return deque(maxlen=_REMEMBERED)


@dataclass(slots=True)
class _Account:
    """The calls of one kind."""

    routed: deque[Outcome] = field(default_factory=_window)
    alone: deque[Outcome] = field(default_factory=_window)
    verdict: Route | None = None
    until_trial: int = _FIRST_TRIAL
    between_trials: int = _FIRST_TRIAL


class Accounts:
    """Accounts of one router; safe for many calls at once."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._writing: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)
        self._lock = Lock()
        self._warned = False

    def plan(self, kind: str) -> Plan:
        """How the next call of a kind is to be written.

        Args:
            kind: Calls of one kind take about the same; any text.
        """
        with self._lock:
            account = self._accounts.setdefault(kind, _Account())
            if account.verdict is None:
                return self._learn(account)
            account.until_trial -= 1
            if account.until_trial <= 0:
                account.between_trials = min(2 * account.between_trials, _LAST_TRIAL)
                account.until_trial = account.between_trials
                return self._trial(account)
            return self._by_verdict(account, kind)

    def record(self, kind: str, outcome: Outcome) -> None:
        """A call is over."""
        with self._lock:
            account = self._accounts.setdefault(kind, _Account())
            (account.routed if outcome.route == "routed" else account.alone).append(outcome)
            if outcome.writing[1]:
                self._writing.append(outcome.writing)
            self._judge(account)

    def ratio(self, kind: str) -> float | None:
        """What routed calls took, over what the large model alone would have; ``None``: unknown."""
        with self._lock:
            account = self._accounts.get(kind)
            ratio = None if account is None else self._ratio(account)
            return None if ratio is None else ratio.value

    # -- inside ------------------------------------------------------------------------------

    def _learn(self, account: _Account) -> Plan:
        """Both ways in turn, until it is clear which takes less."""
        routed, alone = len(account.routed), len(account.alone)
        waits = sum(outcome.seconds for outcome in account.routed) < _NOTICED
        if routed < 2 or waits or self._has_prices(account) or routed <= alone + 1:
            return Plan("routed", "not enough calls of this kind to compare")
        return Plan("large_alone", "to learn what the large model alone takes for such calls")

    def _trial(self, account: _Account) -> Plan:
        if account.verdict == "large_alone":
            return Plan("routed", "to see whether routing pays by now")
        if self._has_prices(account):
            return Plan("routed", self._words(account))
        return Plan("large_alone", "to see what the large model alone takes by now")

    def _by_verdict(self, account: _Account, kind: str) -> Plan:
        words = self._words(account)
        if account.verdict == "routed":
            return Plan("routed", words)
        warning = ""
        if not self._warned:
            self._warned = True
            which = kind.partition(" #")[0]
            warning = (
                f"routing costs more than the large model alone here ({which}): {words}, because "
                f"{self._cause(account)}. The large model answers such calls alone from now on; "
                "route='always' routes them all the same"
            )
        return Plan("large_alone", words, warning)

    def _judge(self, account: _Account) -> None:
        ratio = self._ratio(account)
        if ratio is None:
            return
        verdict = self._verdict(account, ratio)
        if verdict is None or verdict == account.verdict:
            return
        if account.verdict == "large_alone":
            while len(account.routed) > _CONVINCING:
                account.routed.popleft()
        account.verdict = verdict
        account.until_trial = account.between_trials = _FIRST_TRIAL

    def _verdict(self, account: _Account, ratio: Ratio) -> Route | None:
        """What an account says by now; ``None``: nothing yet, or nothing new."""
        if account.verdict == "routed":
            return "large_alone" if ratio.loses else None
        if account.verdict == "large_alone":
            return "routed" if self._pays_by_now(account) else None
        few = len(account.routed) < _FEWEST
        few |= not self._has_prices(account) and 2 * len(account.alone) < _FEWEST
        calls = len(account.routed) + len(account.alone)
        if few or not (ratio.loses or ratio.wins or calls >= _LEARNING):
            return None
        return "routed" if ratio.value <= 1 else "large_alone"

    def _pays_by_now(self, account: _Account) -> bool:
        """Whether the last trials say so. They are rare, and older ones are of another time."""
        last = self._ratio(account, latest=1)
        if last is not None and last.value < _CHEAPER:
            account.until_trial = min(account.until_trial, 1)  # look again at once
        few = self._ratio(account, latest=_CONVINCING)
        return few is not None and few.value < _CHEAPER

    def _ratio(self, account: _Account, latest: int = _REMEMBERED) -> Ratio | None:
        routed = list(account.routed)[-latest:]
        if routed and self._has_prices(account):
            return money_ratio(routed)
        if sum(outcome.seconds for outcome in routed) < _NOTICED:
            return None
        return time_ratio(routed, account.alone, self._writing)

    @staticmethod
    def _has_prices(account: _Account) -> bool:
        return bool(account.routed) and account.routed[-1].alone_cost is not None

    def _words(self, account: _Account) -> str:
        ratio = self._ratio(account)
        value = 0.0 if ratio is None else ratio.value
        what = "money" if self._has_prices(account) else "time"
        calls = len(account.routed)
        return f"routing took {value:.2f} times the large model's {what} in {calls} calls"

    @staticmethod
    def _cause(account: _Account) -> str:
        routed = account.routed
        share = sum(outcome.large_share for outcome in routed) / len(routed)
        if share > 0.8:
            return (
                f"the large model writes {share:.0%} of the steps, and what the small one begins "
                "is thrown away"
            )
        return (
            "both models have to read the prompt, or the small one is not much faster than the "
            "large one"
        )
