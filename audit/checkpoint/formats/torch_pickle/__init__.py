"""Where each tensor's bytes are in a torch file, read from its pickle without torch and without running its code.

A pickle is a program: it names callables, and the reader calls them. Here every name becomes a ``Global``, a label that
can be called but imports nothing and does nothing; those that rebuild tensors leave a record of their arguments. A file
that names anything else is refused. Records are tuples, so nothing in a pickle can change one.

``torch_file`` runs this package in a process of its own, with limits of memory and processor time, as the top-level
package ``torch_pickle``. It therefore imports only the standard library, and its modules import one another by relative
names.

Why not ``torch.load(weights_only=True)`` in that process? It refuses callables too, but (measured with torch 2.13):

- it has had holes through which a file ran code (CVE-2025-32434, CVE-2026-24747);
- it reads a compressed archive: a file of 390 KB unpacks to a tensor of 400 MB;
- it returns tensors. All of them would be in memory and pass from one process to the other, where an audit reads one
  tensor, or some rows of it, at a time. Under ``FakeTensorMode`` it returns positions, as the private
  ``_checkpoint_offset``, but none for the format before torch 1.6;
- its error message advises to load the file again with ``weights_only=False``;
- it imports torch, which takes seconds and 225 MB for each file; the standard library takes a tenth of a second.

Neither reader limits memory or time by itself: a pickle of 500 bytes can describe a key with 2^60 parts.

File format: ``torch/serialization.py``, ``_save`` (a zip archive of uncompressed members, since torch 1.6) and
``_legacy_save``.
"""
