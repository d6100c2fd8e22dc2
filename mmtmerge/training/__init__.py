from ..lazy import lazy

__getattr__, __dir__ = lazy(globals())
