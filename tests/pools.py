"""What the tests of pools share."""

import torch

# Kernel, stride, padding: all that are specialised at compile time, windows apart, with gaps, and larger ones.
WINDOWS = [
    *((2, 2, 0), (2, 1, 1), (3, 1, 1), (3, 2, 0), (3, 2, 1), (3, 3, 0), (1, 1, 0), (1, 2, 0)),
    *((5, 1, 2), (4, 2, 1), (5, 3, 2), ((2, 3), (3, 1), (1, 0)), ((3, 7), (1, 2), (0, 3))),
]
SHAPES = [(2, 3, 28, 28), (1, 2, 7, 7), (3, 5, 17), (1, 1, 19, 70), (2, 2, 9, 8), (1, 3, 5, 33)]


def assert_trains_and_follows(converted, model, input):
    """A converted model has the gradients of its model, and follows a change of their `pool`."""
    grads = []
    for net in (model, converted):
        leaf = input.clone().requires_grad_()
        net(leaf).square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)
    converted.pool.kernel_size, model.pool.kernel_size = 1, 1
    converted.pool.padding, model.pool.padding = 0, 0
    torch.testing.assert_close(converted(input), model(input))
