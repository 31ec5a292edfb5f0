"""Response caches: name → class, loaded on demand."""

CACHES = {
    "memory": "gateway.cache.memory:MemoryCache",
    "redis": "gateway.cache.redis:RedisCache",
    "tiered": "gateway.cache.tiered:TieredCache",
}
