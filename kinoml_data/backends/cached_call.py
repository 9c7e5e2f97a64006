"""A featurizer whose features are remembered in a cache on disk."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from kinoml_data.backends.feature_cache import DIGEST, FeatureCache, open_cache
from kinoml_data.backends.featurizer_call import Arrays, FeaturizerCall
from kinoml_data.contracts.featurizer import Featurizer
from kinoml_data.errors import FeaturizationError, SpecError, count_of, quoted

DEPTH = 8  # up to which the parts of a Python object are looked into


@dataclass(frozen=True)
class CachedCall(FeaturizerCall):
    """A featurizer that is called only for inputs whose features are not in its cache.

    Attributes:
        cache: the cache.
    """

    cache: FeatureCache

    @classmethod
    def of(
        cls, call: FeaturizerCall, folder: Path, budget: int, cache_version: str | None, distribution: str | None
    ) -> CachedCall:
        """This call with a cache.

        Args:
            call: the featurizer.
            folder, budget: see `FeatureCache`.
            cache_version: a text that is a part of the version of the features.
            distribution: the distribution that registers the featurizer, whose version and requirements are the other
                part; None for a Python object of the caller.

        Raises:
            SpecError: there is neither a `cache_version` nor a distribution with a version.
            StoreWriteError: the folder does not exist and cannot be created.
        """
        versions = _versions(distribution)
        if not versions and cache_version is None:
            raise SpecError(
                f"featurizer {call.label!r} has no version, which a cache needs; write `cache_version: '1'` beside "
                "`cache_path`, and another text whenever the featurizer computes something else"
            )
        identity = _description(call.featurizer, is_registered=bool(versions))
        identity |= {"versions": versions, "cache_version": cache_version}
        cache = open_cache(folder, budget, identity, call.outputs)
        return cls(call.featurizer, call.outputs, call.label, cache)

    def attempts(self, inputs: Sequence[Sequence[Any]], rows: Sequence[int]) -> Iterator[Arrays | FeaturizationError]:
        """See `FeaturizerCall.attempts`. Errors are not remembered.

        Raises:
            SpecError: an input is neither text nor a number nor an array, nor a list of them, so it has no digest.
        """
        digests = input_digests(inputs)
        found = self.cache.get_many(digests)
        missing = [i for i in range(len(rows)) if i not in found]
        if found:
            inputs = [[values[i] for i in missing] for values in inputs]
        computed = super().attempts(inputs, [rows[i] for i in missing])
        for i, digest in enumerate(digests):
            result = found[i] if i in found else next(computed)
            if i not in found and not isinstance(result, FeaturizationError):
                self.cache.put(digest, result)
            yield result

    def facts(self) -> Sequence[tuple[str, str]]:
        """See `Storage.facts`."""
        cache = self.cache
        found = f"{cache.hits:,} of {cache.hits + cache.misses:,} inputs found since it was opened"
        text = f"{count_of(cache.size, 'input')} in {cache.nbytes:,} bytes of {cache.folder}; {found}"
        return [(f"cache of {self.label}", text)]

    def flush(self) -> None:
        """See `FeaturizerCall.flush`."""
        self.cache.flush()

    def close(self) -> None:
        """See `FeaturizerCall.close`."""
        self.cache.close()


def input_digests(inputs: Sequence[Sequence[Any]]) -> list[bytes]:
    """For each row, a digest of the types and the bytes of all its inputs.

    Args:
        inputs: for each input, its raw values, one per row.

    Raises:
        SpecError: an input is neither text nor a number nor an array, nor a list of them.
    """
    rows = zip(*inputs, strict=True)
    return [blake2b(b"".join(map(_encoded, row)), digest_size=DIGEST).digest() for row in rows]


def _encoded(value: Any) -> bytes:
    """The type and the bytes of a value, so that no two sequences of values have the same contents end to end."""
    kind = type(value)
    content: bytes
    if kind is str:
        content = value.encode("utf-8", "surrogatepass")
    elif kind is bytes:
        content = value
    elif value is None or kind in (int, bool):
        content = str(value).encode()
    elif kind in (float, complex):
        content = np.array(value).tobytes()
    elif kind in (list, tuple):
        content = b"".join(map(_encoded, value))
    elif (kind in (np.ndarray, np.memmap) or isinstance(value, np.generic)) and value.dtype.kind not in "OV":
        kind = np.generic if isinstance(value, np.generic) else np.ndarray
        content = f"{value.dtype.str}{value.shape}\n".encode() + value.tobytes()
    else:
        raise SpecError(
            f"{quoted(value)} has no digest for the cache; its inputs may be text, numbers, arrays and lists of them"
        )
    return struct.pack("<8sQ", kind.__name__.encode(), len(content)) + content


def _versions(distribution: str | None) -> dict[str, str]:
    """The version of a distribution and of each package that it requires; empty if it has none."""
    versions: dict[str, str] = {}
    with suppress(PackageNotFoundError):
        if distribution is not None:
            versions[distribution] = version(distribution)
            for requirement in requires(distribution) or ():
                name = re.match(r"[\w.-]+", requirement)
                if name is not None and "extra" not in requirement.partition(";")[2]:
                    with suppress(PackageNotFoundError):  # such as one for another system
                        versions[name[0]] = version(name[0])
    return versions


def _description(featurizer: Featurizer | Callable[..., Any], *, is_registered: bool) -> dict[str, Any]:
    """The name of a featurizer and whatever can be told of what it does: its options, or its code and what it uses."""
    named: Any = featurizer if hasattr(featurizer, "__qualname__") else type(featurizer)
    label = featurizer.name if isinstance(featurizer, Featurizer) else named.__qualname__
    return {"featurizer": label, "class": f"{named.__module__}.{named.__qualname__}"} | (
        {"options": _options(featurizer)} if is_registered else {"code": _facts(featurizer, DEPTH)}
    )


def _options(featurizer: Any) -> Any:
    return featurizer.model_dump(mode="json", serialize_as_any=True)


def _facts(value: Any, depth: int) -> Any:
    """What a Python object is, as JSON that is the same in every process.

    Of a function these are its code and the values that it has captured, of another object its type and attributes.
    Global variables and compiled code are not looked into.
    """
    with suppress(SpecError):
        return blake2b(_encoded(value), digest_size=DIGEST).hexdigest()
    kind = type(value)
    name = getattr(value, "__qualname__", getattr(value, "__name__", ""))
    facts: list[Any] = [kind.__qualname__, getattr(value, "__module__", ""), name]
    parts: list[Any] = []
    if isinstance(value, CodeType):
        facts += [value.co_code.hex(), value.co_names]
        parts = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in value.co_consts]
    elif isinstance(value, Featurizer):
        facts.append(_options(value))
        parts = [kind.featurize, kind.featurize_many]
    elif isinstance(value, FunctionType):
        captured = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, captured]
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif isinstance(value, Mapping):
        parts = [[str(key), part] for key, part in value.items()]
    elif not isinstance(value, (type, ModuleType)):
        parts = [kind.__call__ if callable(value) else None, getattr(value, "__dict__", None)]
    return [*facts, *(_facts(part, depth - 1) for part in parts if depth)]
