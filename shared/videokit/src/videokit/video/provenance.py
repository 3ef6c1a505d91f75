"""What a file states about its own making: model, inputs, seed and software, and that a model made it.

`encode` puts these texts where each file format stores them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from collections.abc import Mapping

# IPTC's term for media that a trained model made, the mark that search engines and networks look for:
# https://cv.iptc.org/newscodes/digitalsourcetype/
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

# XMP specification part 1, 7.3.2: the packet's wrapper. The id is the same in all packets; "r" means read-only.
_XMP_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool={software}
    Iptc4xmpExt:DigitalSourceType={source_type}/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True)
class Provenance:
    """The model, inputs, seed and software of a file.

    `inputs` are the documented inputs as they were given, in types that JSON has. `seed` is the resolved one.
    `software` reads like "animate-diff 0.1.0, videokit 0.1.0".
    """

    model: str
    inputs: Mapping[str, object]
    seed: int
    software: str

    def comment(self) -> str:
        """Return everything as one line of JSON: keys sorted, ASCII only (as GIF requires), other letters escaped."""
        return json.dumps({**asdict(self), "digitalSourceType": DIGITAL_SOURCE_TYPE}, sort_keys=True)

    def xmp(self) -> bytes:
        """Return an XMP packet in UTF-8 with the software and IPTC's DigitalSourceType."""
        software, source_type = quoteattr(self.software), quoteattr(DIGITAL_SOURCE_TYPE)
        return _XMP_PACKET.format(software=software, source_type=source_type).encode()
