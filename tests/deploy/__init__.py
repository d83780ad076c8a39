"""The files of ``deploy/`` against schemas, parsers, each other and ``glimp serve`` itself."""
