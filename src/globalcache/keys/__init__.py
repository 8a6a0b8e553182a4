"""Key templates: `user:{id:int}` and the arguments of a function, both ways.

Rules, so that two different calls never share an entry:

* Arguments are bound as Python binds them, with defaults applied: positional and keyword calls are one.
* The arguments are those that the call really has: of the outermost decorator that names its parameters, and of the
  function within where it takes *args and **kwargs.
* Every parameter is in the key, or named in `ignore`; `self` and `cls` of a method are only by their attributes, as
  `{self.id}`.
* Without a template the key is the module, the qualified name and all arguments; a script's name stands for
  `__main__`. A function whose name does not tell what it does needs a template: a lambda, one that uses variables of a
  function around it, a bound method, and one that was typed into a shell or notebook.
* A field takes the types of its converter (`{id:int}`, `{sku:str}`, `{rest:path}`), else of its annotation, else any
  of those listed in kinds.py. Where it takes several, a text that reads as another type is marked: 1 is `1`, "1" is
  `%s1`.
* A whole number where `float` is annotated is that float: 1 and 1.0 are one call, and loads are given 1.0.
* A value of a subclass, such as `class UserId(int)`, is written as its base if the class adds nothing to what values
  do. Any other is refused, as are times in a zone that has no name in the IANA database and no fixed offset.
* In a field, `:`, `%`, blanks, control characters and whatever the template puts between fields are escaped as in URLs.
  A `path` keeps `:`.
* A key of more than 250 bytes, memcached's limit, ends in a hash.

Knows nothing of caches.
"""

from globalcache.keys.signature import hints, module_of, name_of, receiver_of
from globalcache.keys.template import LONGEST, KeyTemplate

__all__ = ["LONGEST", "KeyTemplate", "hints", "module_of", "name_of", "receiver_of"]
