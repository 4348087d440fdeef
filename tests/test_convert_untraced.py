"""Forwards that tracing would not record faithfully are left alone, with a reason, and so compute what they did."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastvision.convert import convert, explain

COUNTS = {"calls": 0}
SCALE = 2.0


def noisy(x):
    return x * random.random()


def decide(x):
    return x if x is None else x + 1


class Aware(nn.Module):
    """A child that keeps state, and one that changes what it is given."""

    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, x):
        if isinstance(x, list):
            x.append(x[0])
            return x[0]
        self.last = x.mean()
        return x


class Odd(nn.Module):
    def forward(self, x):
        return x

    def __call__(self, x):
        return x + 1


class Net(nn.Module):
    """Each case gives it a forward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)  # which gains nothing alone
        self.aware = Aware()
        self.odd = Odd()
        self.register_buffer("steps", torch.zeros(()))
        self.history = []
        self.threshold = torch.tensor(0.5)

    @property
    def factor(self):
        return len(self.history)

    def run(self, x):
        return F.relu(self.conv(x))

    def save(self, x):
        self.kept = x
        return x


class DataDependentIf(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        if x.sum() > 0:
            x = x + 1
        return x


class DataDependentSize(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        for _ in range(x.shape[0]):
            x = x + 1
        return x


class CoinToss(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        return x if random.random() < 0.5 else -x


class CoinTossElsewhere(Net):
    def forward(self, x):
        return noisy(F.relu(self.conv(x)))


class DecisionElsewhere(Net):
    def forward(self, x):
        return decide(F.relu(self.conv(x)))


class Prints(Net):
    def forward(self, x):
        print(x.shape)
        return F.relu(self.conv(x))


class Global(Net):
    def forward(self, x):
        return F.relu(self.conv(x)) * SCALE


class GlobalCounter(Net):
    def forward(self, x):
        COUNTS["calls"] += 1
        return F.relu(self.conv(x))


class Assigns(Net):
    def forward(self, x):
        self.features = F.relu(self.conv(x))
        return self.features


class AssignsInMethod(Net):
    def forward(self, x):
        return self.save(F.relu(self.conv(x)))


class AssignsBuffer(Net):
    def forward(self, x):
        self.steps += 1
        return F.relu(self.conv(x)) * self.steps


class Appends(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        self.history.append(1)
        return x


class Computed(Net):
    def forward(self, x):
        return F.relu(self.conv(x)) * self.factor


class PlainTensor(Net):
    def forward(self, x):
        return F.relu(self.conv(x)) * self.threshold


class StateOfAChild(Net):
    def forward(self, x):
        x = self.aware(F.relu(self.conv(x)))
        if self.aware.last is not None:
            x = x + self.aware.last
        return x


class ListForAChild(Net):
    def forward(self, x):
        features = [F.relu(self.conv(x))]
        x = self.aware(features)
        return x * len(features)


class NoGradient(Net):
    def forward(self, x):
        with torch.no_grad():
            return F.relu(self.conv(x))


class Decorated(Net):
    @torch.no_grad()
    def forward(self, x):
        return F.relu(self.conv(x))


class Catches(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        try:
            return x + float(x.sum())
        except Exception:
            return x


class AsksType(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        return x + 1 if isinstance(x, torch.Tensor) else x


class AsksGradientMode(Net):
    def forward(self, x):
        return F.relu(self.conv(x)) * (2 if torch.is_grad_enabled() else 1)


class Random(Net):
    def forward(self, x):
        return F.relu(self.conv(x)) + torch.rand(1)


class Calls(Net):
    def forward(self, x):
        return self.odd(F.relu(self.conv(x)))


class Default(Net):
    def forward(self, x, mask=None):
        x = F.relu(self.conv(x))
        mask = mask or None
        return x if mask is None else x * mask


class Remembers(Net):
    def forward(self, x, seen=[]):  # noqa: B006
        seen.append(F.relu(self.conv(x)))
        return seen[0]


class Hidden(Net):
    def forward(self, x):
        x = sum([COUNTS for COUNTS in (F.relu(self.conv(x)), x)])
        return x + COUNTS["calls"]


class Super(Net):
    def forward(self, x):
        return F.relu(super().run(x))


class Text(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        return {f"{x.shape}": x}


class AsksAttribute(Net):
    def forward(self, x):
        x = F.relu(self.conv(x))
        return x if hasattr(x, "names") else x + 1


class Internals(Net):
    def forward(self, x):
        return F.relu(self._modules["conv"](x))


class Nested(Net):
    def forward(self, x):
        double = lambda y: y * 2  # noqa: E731
        return double(F.relu(self.conv(x)))


CASES = {
    DataDependentIf: "torch.fx can't trace (symbolically traced variables cannot be used as inputs to control flow)",
    DataDependentSize: "torch.fx can't trace ('_Placeholder' object cannot be interpreted as an integer)",
    CoinToss: "calls random.random",
    CoinTossElsewhere: "calls noisy, which calls random.random",
    DecisionElsewhere: "calls decide, which asks 'x is None'",
    Prints: "calls print",
    Global: "reads the global SCALE",
    GlobalCounter: "reads the global COUNTS",
    Assigns: "assigns self.features",
    AssignsInMethod: "calls self.save, which assigns self.kept",
    AssignsBuffer: "assigns self.steps",
    Appends: "reads self.history, a list",
    Computed: "reads self.factor, which is computed",
    PlainTensor: "reads self.threshold, a Tensor",
    StateOfAChild: "reads self.aware.last, which a call might change",
    ListForAChild: "gives self.aware a list or dict, which it might change",
    NoGradient: "has a with in line {line}",
    Decorated: "is decorated",
    Catches: "has a try in line {line}",
    AsksType: "calls isinstance",
    AsksGradientMode: "calls torch.is_grad_enabled",
    Random: "calls rand without a tensor",
    Calls: "uses self.odd, which has a class with a __call__ of its own",
    Default: "asks 'mask is None'",
    Remembers: "has an argument whose default may change",
    Hidden: "reads the global COUNTS",
    Super: "calls super()",
    Text: "makes a text of a tensor",
    AsksAttribute: "asks 'hasattr(x, 'names')'",
    Internals: "reads self._modules",
    Nested: "has a lambda in line {line}",
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_left_alone_with_a_reason(kind):
    model = kind()
    assert type(convert(model)) is kind
    reason = explain(model).rows[0].reason
    line = "".join(filter(str.isdigit, reason.partition("in line")[2]))
    assert reason == f"is called by {kind.__name__}.forward, which {CASES[kind].format(line=line)}"


def test_source_that_is_not_what_runs():
    class Edited(Net):
        def forward(self, x):
            return F.relu(self.conv(x))

    other = compile("def forward(self, x):\n    return F.relu(self.conv(x)) + 1", "nowhere", "exec").co_consts[0]
    Edited.forward.__code__ = other
    assert explain(Edited()).rows[0].reason == "is called by Edited.forward, which has no source to read"
    Edited.forward.__code__ = other.replace(co_filename=__file__, co_firstlineno=Net.run.__code__.co_firstlineno)
    assert explain(Edited()).rows[0].reason == "is called by Edited.forward, which is not what its source says"
