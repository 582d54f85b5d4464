"""What can be known of a file without its maker: nothing here imports `export.build`."""
