"""The coatcheck sidecar: keeps an agent's run as a log, beside the agent and off the pod."""
