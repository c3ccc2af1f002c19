"""The lecture on IA3 and T-Few: its runs and its claims."""
