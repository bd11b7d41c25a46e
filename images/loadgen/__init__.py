"""Measures an OpenAI-compatible server: how fast it answers, under load that does not wait for it and load that does.

Runs in vLLM's own image, so it needs Python 3.10 and aiohttp and nothing else of this project.
"""
