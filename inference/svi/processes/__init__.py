"""The processes of a run: who starts them, and how they exchange gradients."""
