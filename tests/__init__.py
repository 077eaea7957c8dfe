"""The test-suite; a package so that its files can share `families` and `references`."""
