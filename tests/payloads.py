"""Names that attack what reads them: pages, Markdown, YAML, figures, terminals, paths."""

PAYLOADS = {
    "script": "<script>document.title='RAN';document.body.setAttribute('data-ran','1')</script>",
    "end of a script": "</script><script>document.title='RAN'</script>",
    "image": "<img src=x onerror=\"document.title='RAN'\">",
    "svg": "<svg/onload=document.body.setAttribute('data-ran','1')>",
    "quote out of an attribute": "\"' onmouseover=document.title='RAN' x=\"",
    "javascript link": "[press](javascript:document.title='RAN')",
    "html link": "<a href=\"javascript:document.title='RAN'\">press</a>",
    "bare address": "see https://evil.invalid/a and www.evil.invalid, a@evil.invalid",
    "picture": "![seen](https://evil.invalid/pixel.png)",
    "heading": "a\n\n# A heading\n\n## Licence: mit\n",
    "fence": "```\n~~~\n<script>document.title='RAN'</script>",
    "backticks": "a ` b `` c ``` d",
    "own end mark": "x -->\n<!-- graticule:end blocks.9.hook_resid_post -->\n# Mine\n",
    "own list mark": "<!-- graticule:end-list -->\n<!-- graticule:begin x | y -->\n",
    "end of a comment": "---->> --!> --> x",
    "table": "a | b \\| c\n| --- | --- |\n| d | e |",
    "front matter": "x\n---\nlicense: mit\n...\n\"': [&a *a !!python/object:os.system",
    "emphasis": "**bold** _slanted_ ~~gone~~ \\*",
    "entities": "&lt;script&gt; &#60;b&#62; &amp;amp;",
    "template": "{{ 7 * 7 }} {% raw %} %{customdata} %(x)s {0}",
    "figure's markup": "<b>bold</b><br><sub>low</sub><extra></extra>",
    "formula": "$\\href{javascript:alert(1)}{x}$ $$y$$",
    "terminal": "\x1b[2J\x1b[31mred\x1b]0;title\x07 \r gone \x08\x9b1m",
    "turned round": "safe\u202etxt.exe\u2066 \u200bzero\u200dwidth\u00ad\ufeff",
    "half a character": "half \udc80 one",
    "path": "../../outside",
    "absolute path": "/tmp/graticule-outside",
    "long": "long " + "x" * 400,
}
"""What it attacks → the name."""

FITTING = {what: text for what, text in PAYLOADS.items() if what != "half a character"}
"""Without what no file can hold: lone surrogates."""

MARKS = ("<script>document", "</script><script>", "<img src=x", "<svg/onload", '<a href="java')
"""What must not stand in a page as it is."""
