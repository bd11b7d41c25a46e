"""Load generator for an OpenAI-compatible server: its speed under load that waits for it, and under load that does not.

Runs in vLLM's own image, so it needs Python 3.10 and aiohttp and nothing else of this project.
"""
