"""What a run tells people and machines: terminal, JSON, HTML, SARIF, GitHub, JUnit."""
