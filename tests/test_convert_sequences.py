"""convert on whole models with recurrent layers, control flow and shared modules."""

import copy
import pickle

import pytest
import torch
from convert_models import seeded, training_step
from convert_sequences import CRNN, MODELS, Decides, EncoderDecoder, FrameLSTM, Shared
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from fastvision.convert import convert, explain, revert

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", MODELS)
def test_same_computation(kind):
    model, arguments = seeded(kind), kind.arguments()
    converted = convert(model)
    for mode in (False, True, False):
        assert_close(
            *(training_step(module.train(mode), *arguments) for module in (converted, model)), rtol=1e-4, atol=1e-5
        )
    with torch.inference_mode():
        expected = model(*arguments)
        for clone in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
            assert_close(clone(*arguments), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_state_both_ways(kind):
    model, other = seeded(kind, 1).eval(), seeded(kind, 2).eval()
    converted, arguments = convert(model), kind.arguments()
    assert list(converted.state_dict()) == list(model.state_dict())
    converted.load_state_dict(other.state_dict())
    assert_close(converted(*arguments), other(*arguments), rtol=1e-4, atol=1e-5)
    model.load_state_dict(converted.state_dict())
    assert_close(revert(converted)(*arguments), model(*arguments), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "replaced"), [(CRNN, 4), (EncoderDecoder, 3), (FrameLSTM, 5), (Decides, 3), (Shared, 4)]
)
def test_layers_are_replaced(kind, replaced):
    rows = explain(convert(seeded(kind).eval())).rows
    assert sum(row.status == "replaced" for row in rows) == replaced, rows


@pytest.mark.parametrize("kind", [CRNN, EncoderDecoder, FrameLSTM, Shared])
def test_compiles_as_one_graph_for_all_lengths(kind):
    converted = convert(seeded(kind)).eval()
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(converted, fullgraph=True, dynamic=None if kind is FrameLSTM else True, backend=counter)
    with torch.no_grad():
        for length in (4,) if kind is FrameLSTM else range(5, 15):  # a loop over frames is unrolled
            arguments = kind.arguments(length)
            assert_close(compiled(*arguments), converted(*arguments), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1
