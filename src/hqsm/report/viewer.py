"""The interactive viewer of one visit: its maps over the first echo in one offline page.

Drawn by NiiVue (BSD-2-Clause, in ``vendor/`` with its licence) in radiological convention. The page asks for nothing:
its policy allows only the scripts that are in it, named by their hashes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from importlib.resources import files
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup

from hqsm.arrays import AnyArray, FloatArray
from hqsm.report.page import ENVIRONMENT
from hqsm.report.visit_page import Shown, VisitPage, maps_of

NIIVUE_SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of ``vendor/niivue.umd.js``: the file as the npm package @niivue/niivue 0.69.0 has it (``make vendor`` fetches it)."""
_STEPS = 254
_COLOURS = {"gray": "gray", "viridis": "viridis", "magma": "inferno", "coolwarm": "blue2red"}
_SCRIPT = """(async function(){
var data=JSON.parse(document.getElementById('volumes').textContent),$=function(i){return document.getElementById(i)};
var packed=Uint8Array.from(atob($('niivue').textContent),function(c){return c.charCodeAt(0)}),library=document.createElement('script');
library.textContent=await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
document.head.appendChild(library);
var nv=new niivue.Niivue({isRadiologicalConvention:true,backColor:[0,0,0,1],show3Dcrosshair:false,crosshairWidth:0.6,crosshairWidthUnit:'mm',crosshairColor:[0.9,0.5,0.1,0.8],isColorbar:true,isOrientCube:false,
 isOrientationTextVisible:true,dragAndDropEnabled:false,multiplanarShowRender:0,isNearestInterpolation:true,loadingText:'loading'});
await nv.attachToCanvas($('view'));
async function add(v,opacity){var im=await niivue.NVImage.loadFromBase64({base64:v.nifti,name:v.file,colormap:v.colours,opacity:opacity,
 cal_min:v.low-v.step/2,cal_max:v.high,trustCalMinMax:false});nv.addVolume(im);return im}
var under=await add(data.under,1),over=null,roi=null,shown=null;
under.colorbarVisible=false;
async function choose(k){if(over)nv.removeVolume(over);if(roi){nv.removeVolume(roi);roi=null}
 shown=data.maps[k];over=await add(shown,Number($('opacity').value)/100);
 ['low','high'].forEach(function(id){var e=$(id);e.min=shown.low-(shown.high-shown.low)/2;e.max=shown.high*1.5;e.step=(shown.high-shown.low)/200;e.value=id==='low'?shown.low-shown.step/2:shown.high;});
 await contours();text()}
async function contours(){if(roi){nv.removeVolume(roi);roi=null}
 if($('roi').checked&&data.roi){roi=await add(data.roi,1);roi.colorbarVisible=false;nv.updateGLVolume()}}
function text(){$('lowtext').textContent=Number($('low').value).toPrecision(3);$('hightext').textContent=Number($('high').value).toPrecision(3)}
data.maps.forEach(function(m,k){var o=document.createElement('option');o.value=k;o.textContent=m.name;$('map').appendChild(o)});
$('map').onchange=function(){choose(Number(this.value))};
$('opacity').oninput=function(){nv.setOpacity(1,Number(this.value)/100)};
['low','high'].forEach(function(id){$(id).oninput=function(){over.cal_min=Number($('low').value);over.cal_max=Number($('high').value);
 if(over.cal_max<=over.cal_min)over.cal_max=over.cal_min+1e-6;nv.updateGLVolume();text()}});
$('roi').onchange=contours;
$('plane').onchange=function(){nv.setSliceType(Number(this.value))};
nv.onLocationChange=function(d){var w=d.values.map(function(v){return v.value});
 $('where').textContent='x '+d.mm[0].toFixed(0)+', y '+d.mm[1].toFixed(0)+', z '+d.mm[2].toFixed(0)+' mm'+(shown&&w.length>1?'   '+shown.name+': '+Number(w[1]).toPrecision(3):'')};
await choose(0);nv.setSliceType(0);document.body.dataset.ready='1';window.hqsmViewer=nv;
})().catch(function(e){document.getElementById('where').textContent='The viewer needs a browser of 2023 or later with WebGL 2: '+e.message;document.body.dataset.ready='0'});"""
_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {{ hashes }}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{{ title }}</title><style>
html,body{height:100%;margin:0;background:#111;color:#eee;font:14px/1.4 system-ui,sans-serif}
body{display:flex;flex-direction:column}header{display:flex;flex-wrap:wrap;gap:.4rem 1.1rem;align-items:center;padding:.5rem .8rem;background:#1d2329}
header a{color:#9bd}label{display:flex;gap:.4rem;align-items:center}input[type=range]{width:110px}select{font:inherit}
main{flex:1;min-height:0;position:relative}canvas{position:absolute;inset:0;width:100%;height:100%}#where{min-width:17rem;color:#bcd}
</style></head><body><header><b>{{ title }}</b><a href="{{ page }}">QC page</a>
<label>map <select id="map"></select></label><label>opacity <input id="opacity" type="range" min="0" max="100" value="70"></label>
<label>from <input id="low" type="range"><span id="lowtext"></span></label><label>to <input id="high" type="range"><span id="hightext"></span></label>
<label><input id="roi" type="checkbox" checked> regions</label>
<label>plane <select id="plane"><option value="0">axial</option><option value="1">coronal</option><option value="2">sagittal</option><option value="3">all</option></select></label>
<span id="where"></span></header><main><canvas id="view"></canvas></main>
<script type="application/json" id="volumes">{{ volumes }}</script><script type="application/gzip" id="niivue">{{ niivue }}</script><script>{{ script }}</script></body></html>
"""


def render_viewer(visit: VisitPage) -> str:
    """The viewer's page; empty text for a visit without maps."""
    if visit.fit is None:
        return ""
    affine = visit.fit.grid.affine_mm
    shown = maps_of(visit, visit.fit)
    content = {
        "under": _volume(shown[0], affine),
        "maps": [_volume(m, affine) for m in shown[3:]],
        "roi": _regions(visit, affine),
    }
    library = files("hqsm.report").joinpath("vendor", "niivue.umd.js").read_text(encoding="utf-8")
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (library, _SCRIPT))
    return ENVIRONMENT.from_string(_FRAME).render(
        title=f"{visit.participant_id} {visit.session_id}",
        page=f"{visit.participant_id}_{visit.session_id}.html",
        hashes=Markup(hashes),
        volumes=Markup(json.dumps(content).replace("<", "\\u003c")),
        niivue=_packed(library.encode()),
        script=Markup(_SCRIPT),
    )


def _volume(shown: Shown, affine_mm: FloatArray) -> dict[str, Any]:
    """A map in 8 bits over one and a half times its window, which no eye can tell from more; 0 where it has no value."""
    low, high = float(shown.limits[0]), float(shown.limits[1])
    bottom, top = low - 0.5 * (high - low), low + 1.5 * (high - low)
    slope = (top - bottom) / _STEPS
    with np.errstate(invalid="ignore"):
        # NiiVue shows nothing where a value is below the window: what is darkest is at its lower end, not below it
        steps = np.clip((np.maximum(np.asarray(shown.volume, float), low) - bottom) / slope, 0, _STEPS)
    valid = np.isfinite(steps)
    stored = np.where(valid, np.nan_to_num(steps).round() + 1, 0).astype(np.uint8)
    return {
        "name": shown.name,
        "file": f"{shown.name.split(' [')[0].replace(' ', '_')}.nii.gz",
        "nifti": _nifti(stored, affine_mm, slope, bottom - slope),
        "colours": _COLOURS[shown.colours],
        "low": low,
        "high": high,
        "step": 2 * slope,
    }


def _regions(visit: VisitPage, affine_mm: FloatArray) -> dict[str, Any] | None:
    """The in-plane borders of liver, vessels and reference regions as one label volume; nothing without a region."""
    regions = visit.regions
    if regions is None or not regions.liver.any():
        return None
    labels = np.zeros(regions.liver.shape, np.uint8)
    for value, mask in ((3, np.logical_or.reduce([*regions.references.values(), np.zeros_like(regions.liver)])), (2, regions.liver)):
        labels[_border(mask)] = value
    return {
        "name": "regions",
        "file": "regions.nii.gz",
        "nifti": _nifti(labels, affine_mm, 1.0, 0.0),
        "colours": "warm",
        "low": 0.5,
        "high": 3.0,
    }


def _border(mask: AnyArray) -> AnyArray:
    """Voxels of a mask with an in-plane neighbour outside it."""
    inner = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    return mask & ~inner


def _nifti(stored: AnyArray, affine_mm: FloatArray, slope: float, intercept: float) -> str:
    image: Any = nib.Nifti1Image(stored, affine_mm)  # type: ignore[no-untyped-call]
    image.header.set_slope_inter(slope, intercept)
    image.header.set_xyzt_units("mm")
    return _packed(image.to_bytes())


def _packed(content: bytes) -> str:
    """Compressed, in base64."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
