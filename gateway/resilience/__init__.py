"""What keeps requests away from upstreams that would only fail them. Pure; time comes in."""
