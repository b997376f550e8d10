"""Questions to weights, answered by the plan, the tasks and the loop of a conversion."""
