"""Patching: what comes back when a part of one model's computation is put into the other.

It says where an unlearning method acted and how, and takes no part in a verdict. The base's activations are kept while
the base is in memory and put into the other models when these are read, so one model is in memory at a time.
"""
