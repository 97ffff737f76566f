"""Private names of other libraries that hn needs, a file for each library.

A private name may change with any release. Each one is used here alone, and tests/utils/test_private.py fails where a
library no longer has it or it behaves in another way.
"""
