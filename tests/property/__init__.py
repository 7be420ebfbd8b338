"""Properties that Hypothesis tries with drawn programs."""
