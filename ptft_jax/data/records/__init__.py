"""Where examples come from: sources of records, random-access and index-addressed, whatever the file format."""
