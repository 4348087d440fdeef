"""Whether a function's source says that tracing records all it does.

Tracing runs a forward once, on placeholders for tensors, and keeps what it computed with them. Everything else is lost
or frozen at its value of that day: a print, a counter, a coin toss, a clock, an exception that is caught. So a function
is only traced if its source, read beforehand, has nothing of the kind. What is not known to be harmless is not traced.
"""

import ast
import builtins
import dis
import functools
import inspect
import math
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import get_testing_overrides

# Of their arguments these ask nothing that a placeholder answers differently from a tensor without raising.
_BUILTINS = frozenset(
    {abs, all, any, bool, dict, divmod, enumerate, float, int, len, list, map, max, min, pow, range, reversed, round}
    | {slice, sorted, str, sum, tuple, zip}
)
_CONSTANTS = (torch.dtype, torch.memory_format, torch.layout)
_STATEMENTS = (
    ast.Return, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.If, ast.For, ast.While, ast.Pass, ast.Break,
    ast.Continue, ast.Assert,
)  # fmt: skip
_EXPRESSIONS = (
    ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Dict, ast.List, ast.Tuple, ast.ListComp, ast.GeneratorExp,
    ast.DictComp, ast.comprehension, ast.Call, ast.keyword, ast.Constant, ast.Subscript, ast.Starred, ast.Slice,
    ast.JoinedStr, ast.FormattedValue, ast.NamedExpr, ast.expr_context, ast.operator, ast.unaryop, ast.boolop,
)  # fmt: skip


class _UnreadableError(Exception):
    """Its text is why, as the predicate of a sentence."""


@functools.cache
def _recorded() -> frozenset[Callable]:
    """The functions of torch that ask their arguments first, and so leave a placeholder to be recorded."""
    functions = torch._C._VariableFunctions
    more = {getattr(functions, name) for name in dir(functions) if name[0] != "_"}
    return frozenset(get_testing_overrides()) | more | {F.hardswish, F.hardsigmoid}


def is_recorded(value: Any) -> bool:
    """Whether it is a function of torch that tracing records."""
    return (
        callable(value) and isinstance(value, types.FunctionType | types.BuiltinFunctionType) and value in _recorded()
    )


def why_unreadable(function: types.FunctionType, role: str) -> str | None:
    """Why tracing might miss something that this function does, as the predicate of a sentence; None if it can't.

    Args:
        function: as it is defined in a class or module.
        role: 'forward', whose arguments are known to be tensors or constants; 'method', whose first argument is a
            module; or 'function', of whose arguments nothing is known.
    """
    try:
        _check_defaults(function)
        tree = _parse(function, function.__code__)
        _Reader(function, tree, role).read()
    except _UnreadableError as error:
        return str(error)
    except RecursionError:
        return "calls itself"
    return None


def is_immutable(value: Any) -> bool:
    """Whether it is, and all it consists of, so that equal values stay equal."""
    kinds = (type(None), bool, int, float, str, torch.device, *_CONSTANTS)
    return type(value) in kinds or (type(value) in (tuple, torch.Size) and all(map(is_immutable, value)))


def _check_defaults(function: types.FunctionType) -> None:
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if not all(is_immutable(value) or is_recorded(value) for value in defaults):
        raise _UnreadableError("has an argument whose default may change")


@functools.lru_cache(maxsize=1024)
def _parse(function: types.FunctionType, code: types.CodeType) -> ast.FunctionDef:
    if hasattr(function, "__wrapped__"):
        raise _UnreadableError("is decorated")
    if function.__closure__:
        names = code.co_freevars
        raise _UnreadableError(
            "calls super()" if "__class__" in names else f"uses {names[0]} of the function around it"
        )
    try:
        lines, _ = inspect.findsource(function)
        tree, codes = _compiled("".join(lines))
    except (OSError, TypeError, SyntaxError, ValueError):
        raise _UnreadableError("has no source to read") from None
    place = code.co_firstlineno, code.co_name
    if place not in codes or _contents(codes[place]) != _contents(code):
        raise _UnreadableError("is not what its source says")  # edited since it was imported
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (node.lineno, node.name) == place and not node.decorator_list:
            return node
    raise _UnreadableError("is decorated, or no plain function")


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> tuple[ast.Module, dict[tuple[int, str], types.CodeType]]:
    """A file's tree, and the code of everything in it by first line and name."""
    tree = ast.parse(source)
    codes, found = [compile(tree, "<source>", "exec", dont_inherit=True)], {}
    while codes:
        code = codes.pop()
        found[code.co_firstlineno, code.co_name] = code
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return tree, found


def _contents(code: types.CodeType) -> tuple:
    constants = [_contents(c) if isinstance(c, types.CodeType) else (type(c), c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def _loaded_globals(code: types.CodeType) -> set[str]:
    """Names that are global somewhere in a function, be they local in a comprehension of it."""
    return {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


class _Reader(ast.NodeVisitor):
    """Visits every part of a function; raises at the first that is not known to be harmless."""

    def __init__(self, function: types.FunctionType, tree: ast.FunctionDef, role: str) -> None:
        self._function = function
        self._body = tree.body
        parameters = [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]
        names = [parameter.arg for parameter in parameters]
        stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        others = {parameter.arg for parameter in (tree.args.vararg, tree.args.kwarg) if parameter}
        self._locals = {*names, *stored, *others} - _loaded_globals(function.__code__)
        self._module = names[0] if role != "function" and names and names[0] not in stored else None
        self._arguments = set(names) - stored if role == "forward" else set()

    def read(self) -> None:
        for statement in self._body:
            self.visit(statement)

    def generic_visit(self, node: ast.AST) -> None:
        if not isinstance(node, _STATEMENTS + _EXPRESSIONS):
            raise _UnreadableError(f"has a {type(node).__name__.lower()} in line {node.lineno}")
        super().generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Nothing that can be missed: if it is reached, tracing ends there."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._check_target(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._check_target(target)
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._check_target(node.target)
        self.visit(node.value)

    def _check_target(self, target: ast.expr) -> None:
        if isinstance(target, ast.Attribute):
            raise _UnreadableError(f"assigns {ast.unparse(target)}")
        self.visit(target)

    def visit_For(self, node: ast.For) -> None:
        self._check_target(node.target)
        for part in (node.iter, *node.body, *node.orelse):
            self.visit(part)

    def visit_Compare(self, node: ast.Compare) -> None:
        sides = [node.left, *node.comparators]
        for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(operator, ast.Is | ast.IsNot) and not (self._is_known(left) and self._is_known(right)):
                raise _UnreadableError(f"asks '{ast.unparse(node)}'")
        for side in sides:
            self.visit(side)

    def _is_known(self, node: ast.expr) -> bool:
        """Whether it is, when traced, the very object that it is when run, as far as `is` can tell."""
        if isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and node.id in self._arguments):
            return True
        while isinstance(node, ast.Attribute):
            node = node.value
            if isinstance(node, ast.Name):
                return node.id == self._module
        return False

    def visit_Call(self, node: ast.Call) -> None:
        if self._asks_for_type_of_argument(node):
            return
        if isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            # What a placeholder has not is not known; a shadow of a module says it.
            of_module = node.args and isinstance(node.args[0], ast.Name) and node.args[0].id == self._module
            if not of_module and (node.func.id == "hasattr" or len(node.args) != 2):
                raise _UnreadableError(f"asks '{ast.unparse(node)}'")
            if self._resolve(node.func) not in (getattr, hasattr):
                raise _UnreadableError(f"calls {node.func.id}, which is not Python's")
        else:
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def _asks_for_type_of_argument(self, node: ast.Call) -> bool:
        """Whether it is isinstance(argument, Tensor) or (argument, list), which placeholders answer as tensors do."""
        if not isinstance(node.func, ast.Name) or node.func.id != "isinstance" or len(node.args) != 2:
            return False
        argument, kind = node.args
        is_argument = isinstance(argument, ast.Name) and argument.id in self._arguments
        is_global = isinstance(kind, ast.Name | ast.Attribute) and ast.unparse(kind).split(".")[0] not in self._locals
        known = is_argument and is_global and self._resolve(kind) in (torch.Tensor, list)
        return known and "isinstance" not in self._locals and self._resolve(node.func) is isinstance

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and node.id not in self._locals:
            self._check_global(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr.startswith("__"):
            raise _UnreadableError(f"reads {ast.unparse(node)}")
        base = node.value
        while isinstance(base, ast.Attribute):
            base = base.value
        if isinstance(base, ast.Name) and base.id not in self._locals:
            self._check_global(node)
        else:
            self.visit(node.value)

    def _check_global(self, node: ast.Name | ast.Attribute) -> None:
        value, text = self._resolve(node), ast.unparse(node)
        if isinstance(value, _CONSTANTS) or is_recorded(value):
            return
        if isinstance(value, type | types.BuiltinFunctionType) and value in _BUILTINS:
            return
        if isinstance(node, ast.Attribute) and self._resolve(node.value) is math:
            return
        if value in (torch.jit.is_scripting, torch.jit.is_tracing):  # False wherever a trace is used
            return
        if not callable(value):
            raise _UnreadableError(f"reads the global {text}")
        if not isinstance(value, types.FunctionType) or value.__module__.startswith("torch."):
            raise _UnreadableError(f"calls {text}")
        reason = why_unreadable(value, "function")
        if reason:
            raise _UnreadableError(f"calls {text}, which {reason}")

    def _resolve(self, node: ast.Name | ast.Attribute) -> Any:
        """The value of a global name, or of an attribute of a module that has one."""
        if isinstance(node, ast.Name):
            names = self._function.__globals__
            if node.id not in names and not hasattr(builtins, node.id):
                raise _UnreadableError(f"reads {node.id}, which is not defined")
            return names.get(node.id, getattr(builtins, node.id, None))
        owner = self._resolve(node.value)
        if not isinstance(owner, types.ModuleType) or not hasattr(owner, node.attr):
            raise _UnreadableError(f"reads the global {ast.unparse(node.value)}")
        return getattr(owner, node.attr)
