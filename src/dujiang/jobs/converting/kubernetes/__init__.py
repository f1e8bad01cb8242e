"""Jobs, Pods and training jobs of Kubernetes to jobs here."""
