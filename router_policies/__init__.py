"""Who decides where a request goes: policies by name, loaded on demand, each pure."""

POLICIES = {
    "rules": "router_policies.rules:RulesPolicy",
    "static": "router_policies.static:StaticPolicy",
    "sticky": "router_policies.sticky:StickyPolicy",
}
