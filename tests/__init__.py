"""The tests, as a package: files of one name in two contexts do not meet."""
