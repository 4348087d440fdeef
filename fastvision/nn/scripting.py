"""What torch.jit.script says of modules that it can't compile."""


class NotScriptable:
    """A base of modules whose forwards are not TorchScript. Tracing takes them."""

    def __prepare_scriptable__(self):
        """Called by torch.jit.script first. Its own errors would name lines of code that users never wrote."""
        raise RuntimeError(
            f"torch.jit.script: expected a module of stock layers, got fastvision's {type(self).__name__}. Script "
            "fastvision.revert(copy.deepcopy(model)) of a converted model, or use torch.jit.trace"
        )
