"""The image and the Kubernetes parts."""
