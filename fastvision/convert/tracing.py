"""Recording as a torch.fx graph what the forward of a module does with its children and with functions of torch.

The forward runs with placeholders for tensors, and with a shadow in the place of its module. The shadow hands out what
a forward may see of a module, children as shadows again, and notes it: the graph holds as long as all that is the same.
torch.fx.Tracer would do less (it neither notes attributes nor knows of other effects) and more (while it traces, it
patches nn.Module for all threads).
"""

import inspect
import itertools
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Proxy
from torch.fx.graph import inplace_methods
from torch.fx.proxy import Attribute, GraphAppendingTracer
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import register_pytree_node, tree_leaves

from fastvision.convert.converted import stock_type
from fastvision.convert.reading import is_immutable, is_recorded, why_unreadable

Signature = tuple[tuple[str | None, Any], ...]
"""Of each argument its keyword, None if it is positional, and TENSOR, (type, value), or (list, length) of tensors."""
TENSOR = object()
_MISSING = object()
_CONSTANTS = (type(None), bool, int, str)
_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
# What a class may define to make its instances something else than modules that are called.
_SPECIAL = tuple(
    f"__{name}__" for name in ("call", "getattr", "getattribute", "iter", "len", "bool", "getitem", "contains")
)


class UntraceableError(Exception):
    """Its text is why, as the predicate of a sentence about a forward."""


def signature_of(arguments: tuple, keywords: dict[str, Any]) -> Signature | None:
    """What a trace depends on of the arguments of a call; None where they are not only tensors and constants."""
    signature = []
    for keyword, value in (*((None, argument) for argument in arguments), *keywords.items()):
        if isinstance(value, Tensor):
            signature.append((keyword, TENSOR))
        elif type(value) in _CONSTANTS:
            signature.append((keyword, (type(value), value)))
        elif type(value) is list and value and all(isinstance(element, Tensor) for element in value):
            signature.append((keyword, (list, len(value))))
        else:
            return None
    return tuple(signature)


def taking_lists(function: Callable, signature: Signature) -> Callable:
    """The function of a trace's graph, which takes the elements of lists, with the arguments of a call."""
    if not any(value is not TENSOR and value[0] is list for _, value in signature):
        return function

    def flattened(module: nn.Module, *arguments: Any) -> Any:
        elements = ((value if type(value) is list else (value,)) for value in arguments)
        return function(module, *itertools.chain.from_iterable(elements))

    return flattened


def usual_signature(function: Callable) -> Signature:
    """Tensors for all arguments that a method must be given."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return tuple((p.name if p.kind is p.KEYWORD_ONLY else None, TENSOR) for p in required)


class Trace:
    """The graph of one forward, and what it was made from.

    The graph has a placeholder for each argument, and for each element of one that is a list. It calls children by
    their paths, and is a function of the module.

    Args:
        module: whose forward it is.
        forward: the function, as its class has it.
        signature: of the call.
        training: the mode in which the trace holds; the module may be in another.

    Raises:
        UntraceableError: something would be lost, or torch.fx can't record it.
    """

    def __init__(self, module: nn.Module, forward: Callable, signature: Signature, training: bool) -> None:
        self.graph = Graph()
        self._training = training
        self._root = module
        self._plain: dict[tuple[int, str], tuple[nn.Module, str, Any]] = {}
        self._registered: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        self._lists: dict[int, tuple[nn.Module, list[nn.Module]]] = {}
        self._forward = _stored_function(forward)
        self._code = self._forward.__code__
        reason = _why_unlike_a_module(module) or why_unreadable(self._forward, "forward")
        if reason:
            raise UntraceableError(reason)
        self._record(module, signature)

    def is_current(self, forward: Callable) -> bool:
        """Whether tracing now would give the same. Loops, since every call pays for them."""
        if forward is not self._forward or forward.__code__ is not self._code:
            return False
        for module, name, value in self._plain.values():
            if not _same(getattr(module, name, _MISSING), value):
                return False
        for names, name, value in self._registered.values():
            known = names.get(name)
            if known is not value and not (value is TENSOR and isinstance(known, Tensor)):
                return False
        return all(list(module._modules.values()) == children for module, children in self._lists.values())

    def module(self, path: str) -> nn.Module:
        """The module at a path that the graph calls."""
        return self._root.get_submodule(path)

    def _record(self, module: nn.Module, signature: Signature) -> None:
        tracer = _Tracer(self.graph)
        kind = _TypedPlaceholder if "isinstance" in self._code.co_names else _Placeholder
        arguments, keywords = [], {}
        for index, (keyword, value) in enumerate(signature):
            of_list = value is not TENSOR and value[0] is list
            names = [f"argument_{index}_{i}" for i in range(value[1])] if of_list else [f"argument_{index}"]
            proxies = [kind(self.graph.placeholder(name), tracer) for name in names]
            argument = _Given(proxies) if of_list else proxies[0] if value is TENSOR else value[1]
            if keyword is None:
                arguments.append(argument)
            else:
                keywords[keyword] = argument
        try:
            with _EverythingIsRecorded():
                result = self._forward(_Shadow(self, tracer, module, ""), *arguments, **keywords)
            if any(map(_is_given, tree_leaves(result, is_leaf=_is_given))):
                raise UntraceableError("returns a list that it is given")
            self.graph.output(tracer.create_arg(result))
        except UntraceableError:
            raise
        except Exception as error:
            text = str(error).strip().split("\n")[0].split(". ")[0]
            raise UntraceableError(f"torch.fx can't trace ({text or type(error).__name__})") from error

    def read(self, tracer: "_Tracer", module: nn.Module, path: str, name: str) -> Any:
        """What a forward gets when it reads an attribute of a module."""
        text = f"self.{path}{name}"
        if name in _INTERNAL:
            raise UntraceableError(f"reads {text}")
        of_class = inspect.getattr_static(type(module), name, _MISSING)
        if hasattr(of_class, "__get__") and not isinstance(of_class, types.FunctionType | types.BuiltinFunctionType):
            raise UntraceableError(f"reads {text}, which is computed")
        if name in module.__dict__:
            return self._read_plain(module, path, name, module.__dict__[name])
        if isinstance(of_class, types.FunctionType):
            return self._bind(tracer, module, path, name, of_class)
        if of_class is not _MISSING:
            return self._read_plain(module, path, name, of_class)
        for registered in (module._parameters, module._buffers, module._modules):
            if name in registered:
                value = registered[name]
                known = TENSOR if isinstance(value, Tensor) else value
                self._registered[id(registered), name] = registered, name, known
                if isinstance(value, Tensor):
                    return tracer.create_proxy("get_attr", path + name, (), {})
                return None if value is None else self.shadow(tracer, value, path + name)
        self._plain[id(module), name] = module, name, _MISSING
        raise AttributeError(f"{text} does not exist")

    def shadow(self, tracer: "_Tracer", module: nn.Module, path: str) -> "_Shadow":
        """The shadow of a child, after a look at its class."""
        reason = _why_unlike_a_module(module)
        if reason:
            raise UntraceableError(f"uses self.{path}, which {reason}")
        return _Shadow(self, tracer, module, path + ".")

    def children(self, module: nn.Module, path: str) -> dict[str, nn.Module]:
        """The children of a list of modules, to be looked at one by one."""
        is_root = module is self._root and isinstance(module, nn.Sequential)
        if stock_type(module) not in _LISTS and not is_root:
            raise UntraceableError(f"looks into self.{path[:-1]}")
        self._lists[id(module)] = module, list(module._modules.values())
        return module._modules

    def _read_plain(self, module: nn.Module, path: str, name: str, value: Any) -> Any:
        if name == "training" and not path:
            value = self._training
        elif path and not type(module).__module__.startswith(("torch.nn.", "fastvision.")):
            raise UntraceableError(f"reads self.{path}{name}, which a call might change")
        if not (is_immutable(value) or is_recorded(value)):
            raise UntraceableError(f"reads self.{path}{name}, a {type(value).__name__}")
        self._plain[id(module), name] = module, name, value
        return value

    def _bind(self, tracer: "_Tracer", module: nn.Module, path: str, name: str, function: types.FunctionType) -> Any:
        if type(module) is nn.ModuleDict and name in ("keys", "values", "items"):
            children = {key: self.shadow(tracer, m, path + key) for key, m in self.children(module, path).items()}
            return getattr(children, name)
        if function.__module__.startswith("torch."):
            raise UntraceableError(f"calls self.{path}{name}")
        reason = why_unreadable(function, "method")
        if reason:
            raise UntraceableError(f"calls self.{path}{name}, which {reason}")
        return types.MethodType(function, _Shadow(self, tracer, module, path))


def _stored_function(forward: Callable) -> types.FunctionType:
    if not isinstance(forward, types.FunctionType):
        raise UntraceableError("is not a function")
    return forward


def _why_unlike_a_module(module: nn.Module) -> str | None:
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        return f"is a {kind.__name__}"
    for name in _SPECIAL:
        meaning = getattr(kind, name, None)
        usual = [getattr(base, name, None) for base in (nn.Module, *_LISTS)]
        if not any(meaning is one for one in usual):
            return f"has a class with a {name} of its own"
    return None


def _same(value: Any, other: Any) -> bool:
    return value is other or (type(value) is type(other) and value == other and repr(value) == repr(other))


class _Shadow:
    """What a forward sees in the place of a module while it is traced."""

    __slots__ = ("__module", "__path", "__trace", "__tracer")

    def __init__(self, trace: Trace, tracer: "_Tracer", module: nn.Module, path: str) -> None:
        for name, value in (("module", module), ("path", path), ("trace", trace), ("tracer", tracer)):
            object.__setattr__(self, f"_Shadow__{name}", value)

    def __getattr__(self, name: str) -> Any:
        return self.__trace.read(self.__tracer, self.__module, self.__path, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UntraceableError(f"assigns self.{self.__path}{name}")

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if not self.__path:
            raise UntraceableError("calls itself")
        if any(isinstance(value, list | dict) for value in (*arguments, *keywords.values())):
            raise UntraceableError(f"gives self.{self.__path[:-1]} a list or dict, which it might change")
        return self.__tracer.create_proxy("call_module", self.__path[:-1], arguments, keywords)

    def __children(self) -> dict[str, "_Shadow"]:
        children = self.__trace.children(self.__module, self.__path)
        return {name: self.__trace.shadow(self.__tracer, child, self.__path + name) for name, child in children.items()}

    def __iter__(self) -> Iterator:
        children = self.__children()
        return iter(children if isinstance(self.__module, nn.ModuleDict) else children.values())

    def __len__(self) -> int:
        return len(self.__children())

    def __bool__(self) -> bool:
        return len(self) > 0 if isinstance(self.__module, _LISTS) else True

    def __contains__(self, name: str) -> bool:
        if not isinstance(self.__module, nn.ModuleDict):
            raise UntraceableError(f"searches self.{self.__path[:-1]}")
        return name in self.__children()

    def __getitem__(self, key: Any) -> Any:
        children = self.__children()
        if isinstance(self.__module, nn.ModuleDict):
            return children[key]
        if isinstance(key, slice) and not isinstance(self.__module, nn.ModuleList):
            raise UntraceableError(f"slices self.{self.__path[:-1]}")
        return list(children.values())[key]


class _Textless:
    """A text made of a placeholder would be frozen."""

    def __repr__(self) -> str:
        raise UntraceableError("makes a text of a tensor")

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return repr(self)


class _Method(_Textless, Attribute):
    """An attribute that is probably going to be called."""


class _Placeholder(_Textless, Proxy):
    """A proxy that records attributes when they are read, and augmented assignments as the in-place ones they are."""

    def __getattr__(self, name: str) -> Proxy:
        if callable(getattr(torch.Tensor, name, None)):
            return _Method(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})


class _TypedPlaceholder(_Placeholder):
    """A tensor's that is one for isinstance, which forwards may ask of their arguments."""

    __class__ = property(lambda _: Tensor)


class _Given(list):
    """A list that is an argument: what a forward does to it would be lost."""

    def _change(self, *_: Any, **__: Any) -> Any:
        raise UntraceableError("changes a list that it is given")

    append = extend = insert = remove = pop = clear = sort = reverse = _change
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _change


# For torch.fx, which looks for placeholders in arguments.
register_pytree_node(_Given, lambda given: (list(given), None), lambda elements, _: list(elements))


def _is_given(value: Any) -> bool:
    return isinstance(value, _Given)


def _record_in_place(name: str) -> None:
    target = getattr(operator, name)

    def operate(self, other):
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    setattr(_Placeholder, f"__{name}__", operate)


for _name in inplace_methods:
    _record_in_place(_name)


class _Tracer(GraphAppendingTracer):
    def proxy(self, node):
        return _Placeholder(node, self)


class _EverythingIsRecorded(TorchFunctionMode):
    """Refuses calls on which tracing leaves no trace: torch.zeros(3) would run once, and so would torch.rand(3)."""

    def __torch_function__(self, function, kinds, arguments=(), keywords=None):
        keywords = keywords or {}
        if not any(isinstance(leaf, Proxy) for leaf in tree_leaves((arguments, keywords))):
            raise UntraceableError(f"calls {getattr(function, '__name__', function)} without a tensor")
        return function(*arguments, **keywords)
