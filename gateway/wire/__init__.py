"""Pure codecs that dialects and backends share: no sockets, no state beyond one message."""
