export { type UppyS3Handler, type UppyS3Options, uppyS3Handler } from './protocols/uppy/handler.ts'
