/** Whether a declared media type and the one that the bytes show can be of one file. Pure. */

/** Names of one format, and formats that share a container and differ only further on in the file. */
const families: readonly RegExp[] = [
  /^image\/(p?jpeg|jpg|jpe)$/,
  /^image\/(a|x-)?png$/,
  /^image\/(x-)?(ms-)?bmp$/,
  /^image\/(x-icon|vnd\.microsoft\.icon|ico)$/,
  /^image\/(vnd\.adobe\.|x-)?photoshop$|^application\/(x-)?photoshop$|^image\/(x-)?psd$/,
  /^image\/(tiff|x-(adobe-dng|canon-cr2|nikon-nef|sony-arw|olympus-orf|panasonic-rw2|fujifilm-raf))$/,
  /^image\/(hei[cf](-sequence)?|avif)$/,
  /^image\/(jp2|jpx|jpm|mj2|j2c|jpeg2000)$/,
  /^(video\/(mp4|mpeg4|quicktime|x-m4v|3gpp2?)|audio\/(mp4|m4a|x-m4a|aacp?|3gpp2?|qcelp)|application\/mp4|image\/x-canon-cr3)$/,
  /^(video|audio)\/(x-)?(matroska|webm)$/,
  /^((video|audio|application)\/(x-)?(ogg|theora)|audio\/(opus|vorbis|speex))$/,
  /^((video|audio)\/x-(ms-)?(asf|wm[av])|application\/vnd\.ms-asf)$/,
  /^video\/(mpeg|mp1s|mp2p|mp2t|x-mpeg)$/,
  /^audio\/(x-)?(mpeg|mp3|mpeg3|mpg)$/,
  /^audio\/(x-|vnd\.)?(wave?|pn-wav)$/,
  /^video\/(x-|vnd\.)?(avi|msvideo)$/,
  /^audio\/(x-)?aiff?$/,
  /^audio\/(x-)?(flac|ape|wavpack)$/,
  /^(audio|application)\/(x-)?midi?$/,
  /^audio\/(x-)?aac$/,
  /^(application\/(x-)?(rtf)|text\/rtf)$/,
  /^application\/((x-)?gzip|x-tgz|x-compressed-tar|x-gtar-compressed|x-gtar)$/,
  /^application\/(x-)?bzip2?$/,
  /^application\/(x-)?rar(-compressed)?$|^application\/vnd\.rar$/,
  /^application\/(x-)?tar$|^application\/x-gtar$/,
  /^application\/(x-)?zip(-compressed)?$/,
  /^application\/(x-)?(7z(-compressed)?)$/,
  /^application\/(x-msdownload|x-dosexec|x-msdos-program|x-exe|x-executable|vnd\.microsoft\.portable-executable)$/,
  /^application\/(x-executable|x-elf|x-sharedlib|x-pie-executable)$/,
  /^application\/(pdf|postscript|eps|x-eps|illustrator|vnd\.adobe\.illustrator)$/,
  /^(application\/(x-)?font-woff2?|font\/woff2?)$/,
  /^(application\/(x-)?font-(ttf|otf|truetype|opentype|sfnt)|font\/(ttf|otf|sfnt|collection))$/,
  /^application\/((vnd\.)|(x-))?sqlite3?$/,
  /^(application|text)\/xml$/,
]

/** Formats that are files of these containers; which one, the first bytes often do not tell. */
const containers: Readonly<Record<string, RegExp>> = {
  'application/zip':
    /[+-]zip|java-archive|openxmlformats|opendocument|macroenabled|android\.package|xpinstall|3mf|apple\.(pages|numbers|keynote)/,
  'application/x-cfb': /^application\/(msword|vnd\.ms-|vnd\.visio|x-msi|x-ole-storage|x-hwp)|^image\/vnd\.fpx/,
  'application/xml': /\+xml$|^text\/html$/,
}

/** Says nothing about what the file is. */
const anything = 'application/octet-stream'

export interface ShownType {
  /** By its bytes; `null`: not one that is recognised by them. */
  readonly detected: string | null
  readonly bytes: Uint8Array
  /** Whether a type is one that is recognised by its bytes. */
  isRecognizable(mimeType: string): boolean
}

/**
 * Whether the bytes can be of the declared type. Bytes that are of no known type can be anything, or, when `strict`, any
 * type that is not recognised by its bytes.
 */
export function canBe(declared: string, shown: ShownType, strict: boolean): boolean {
  const { isRecognizable } = shown
  // What follows the type (`; codecs=opus`) is not of interest here.
  const detected = shown.detected?.split(';')[0]?.trim().toLowerCase() ?? null
  if (declared === anything || declared === detected) return true
  if (detected === null) return !strict || !isRecognizable(declared)
  if (families.some((family) => family.test(declared) && family.test(detected))) return true
  if (isHeldBy(declared, detected, isRecognizable) || isHeldBy(detected, declared, isRecognizable)) return true
  return isTextual(declared) && isText(shown.bytes)
}

/** Many formats that nobody has heard of are a container with something in it. */
function isHeldBy(type: string, container: string, isRecognizable: (mimeType: string) => boolean): boolean {
  const known = containers[container]
  if (!known) return false
  return known.test(type) || (/^(application|model)\//.test(type) && !isRecognizable(type))
}

function isTextual(mimeType: string): boolean {
  return /^text\/|^application\/(.*\+)?(json|xml|javascript|x-ndjson|yaml|x-sh|sql|toml)$/.test(mimeType)
}

/** A text may begin with the two letters by which pictures or programs are recognised; those have other bytes as well. */
function isText(bytes: Uint8Array): boolean {
  if (bytes.some((byte) => byte < 0x20 && ![0x09, 0x0a, 0x0c, 0x0d, 0x1b].includes(byte))) return false
  try {
    // The beginning may end within a character.
    new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true })
    return true
  } catch {
    return false
  }
}
