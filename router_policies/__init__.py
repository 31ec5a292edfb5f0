"""Who decides where a request goes: policies by name, loaded on demand, each pure."""

POLICIES = {
    "learned": "router_policies.learned.policy:LearnedPolicy",
    "rules": "router_policies.rules:RulesPolicy",
    "static": "router_policies.static:StaticPolicy",
    "sticky": "router_policies.sticky:StickyPolicy",
}
