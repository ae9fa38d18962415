"""What the services that talk to Kubernetes share: how our objects are called, the client, and what its errors mean."""
